"""Pictures of strangers (COCO, WebDataset), read with care, and what encodes them."""
