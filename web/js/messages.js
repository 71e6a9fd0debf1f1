// What a run says in words on its node: one sentence for each code of nodes/messages.py, in both languages.
// A message is { code, ...values }. The sentence says what to do where something can be done.
export const MESSAGES = {
  en: {
    approximate_patch: ({ patch }) => `${patch} acts nearly, not quite as in ComfyUI's own run; reuse: exact is the same.`,
    patch_without_effect: ({ patch }) => `${patch} has no effect here.`,
    prompt_cut: ({ cut }) => `The prompt is too long, “${cut}” was left out.`,
    unknown_words: ({ words }) => `Unknown ${words.length > 1 ? "words" : "word"}: ${words.join(", ")}.`,
    hole_too_large: ({ side, trained }) =>
      `The hole is ${side} px long, the model knows holes up to ${trained} px: mask less, edit it by itself, or scale the canvas down.`,
    hole_enlarged: ({ side, times }) =>
      `The hole is ${side} px long: it was drawn ${times} times smaller and enlarged. Smaller holes come out sharper.`,
    other_image: () => "“image” is not the canvas that Encode Context got and was not used: connect the same picture to both.",
    no_mask_painted: () => "No mask is painted: right-click Load Image, Open in Mask Editor.",
    part_of_manifest: ({ count, all }) => `${count} of the manifest's ${all} edits were read: raise count, or go on with first.`,
    fields_not_used: ({ names }) => `The manifest's ${names.join(", ")} are not in these lists: set them on Lazy Decode Batch.`,
    odd_masks: ({ names }) => `Masks that are empty or cover nearly all (white is the hole): ${names.slice(0, 5).join(", ")}.`,
    prompts_share_hole: ({ count }) =>
      `${count > 1 ? `${count} holes lie` : "A hole lies"} under several prompts and got the one that covers most: leave a gap between holes.`,
    black_under_alpha: () =>
      "The hole starts from black, as pictures are where they are transparent: set denoise to 1, or sketch over all of it.",
  },
  zh: {
    approximate_patch: ({ patch }) => `${patch} 的作用与 ComfyUI 自身的采样相近，但不完全相同；把“复用”设为 exact 则相同。`,
    patch_without_effect: ({ patch }) => `${patch} 在此不起作用。`,
    prompt_cut: ({ cut }) => `提示词过长，“${cut}”被略去。`,
    unknown_words: ({ words }) => `不认识的词：${words.join("、")}。`,
    hole_too_large: ({ side, trained }) => `空洞长 ${side} px，模型只熟悉 ${trained} px 以内的空洞：请缩小遮罩、单独编辑它，或缩小画布。`,
    hole_enlarged: ({ side, times }) => `空洞长 ${side} px：先缩小到 1/${times} 绘制，再放大。较小的空洞更清晰。`,
    other_image: () => "“图像”不是“编码上下文”得到的画布，未被使用：请把同一张图片连到两个节点。",
    no_mask_painted: () => "没有绘制遮罩：右键点击“加载图像”，选择“在遮罩编辑器中打开”。",
    part_of_manifest: ({ count, all }) => `读取了清单 ${all} 个编辑中的 ${count} 个：请调大“数量”，或用“起始”继续。`,
    fields_not_used: ({ names }) => `清单里的 ${names.join("、")} 不在这些列表中：请在“批量惰性解码”上设置。`,
    odd_masks: ({ names }) => `遮罩为空或几乎盖住全图（白色是空洞）：${names.slice(0, 5).join("、")}。`,
    prompts_share_hole: ({ count }) => `有 ${count} 个空洞位于多个提示词之下，各用了覆盖最多的一个：请在空洞之间留出间隙。`,
    black_under_alpha: () => "空洞从黑色开始，图片的透明处往往就是黑色：把降噪设为 1，或用草图盖住整个空洞。",
  },
};
