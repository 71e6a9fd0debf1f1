// What a run says in words on its node: one sentence for each code of nodes/messages.py, in both languages.
// A message is { code, ...values }.
export const MESSAGES = {
  en: {
    approximate_patch: ({ patch }) => `${patch} acts nearly, not quite as in ComfyUI's own run; reuse: exact is the same.`,
    patch_without_effect: ({ patch }) => `${patch} has no effect here.`,
  },
  zh: {
    approximate_patch: ({ patch }) => `${patch} 的作用与 ComfyUI 自身的采样相近，但不完全相同；把“复用”设为 exact 则相同。`,
    patch_without_effect: ({ patch }) => `${patch} 在此不起作用。`,
  },
};
