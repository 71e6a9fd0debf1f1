"""What scenes are composed of: objects and their names, drawings, photographs, surfaces, masks as people draw them."""
