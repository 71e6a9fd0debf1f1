// What a run says in words on its node: one sentence for each code of nodes/messages.py, in both languages.
// A message is { code, ...values }.
export const MESSAGES = {
  en: {
    no_mask_painted: () => "No mask is painted: right-click Load Image, Open in Mask Editor",
    black_under_alpha: () => "The hole starts from black, as pictures are where they are transparent: set denoise to 1, or sketch over all of it",
  },
  zh: {
    no_mask_painted: () => "没有绘制遮罩：右键点击“加载图像”，选择“在遮罩编辑器中打开”",
    black_under_alpha: () => "空洞从黑色开始，图片的透明处往往就是黑色：把降噪设为 1，或用草图盖住整个空洞",
  },
};
