// The words of the line on our nodes, in the page's language. Sentences of single messages are in messages.js.
import { app } from "../../../scripts/app.js";

const WORDS = {
  en: {
    ms: (value) => `${Math.round(value)} ms`,
    s: (value) => `${value.toFixed(value < 9.95 ? 1 : 0)} s`,
    tokens: (hole, all) => `${hole} of ${all} tokens`,
    saved: (time) => `about ${time} saved`,
    empty: "Empty mask: image returned unchanged",
    emptyContext: "Empty mask: nothing to encode",
    ran: (time, tokens) => `Encoder ran: ${time} · ${tokens}`,
    reused: "Encoder not run: answered from cache",
    kept: "Nothing changed: result kept",
    stored: (name, megabytes) => `${name} · ${megabytes} MB`,
    edits: (count) => `${count} ${count === 1 ? "edit" : "edits"}`,
    calls: (count) => `decoded in ${count} ${count === 1 ? "call" : "calls"}`,
    stepTip: "One step took ",
    savedTip: "Time that these steps would have taken longer on all tokens, from times measured on this machine. One step took ",
    contextTip: "The same image, mask and model are encoded only once. Runs of the encoder since the server started: ",
  },
  zh: {
    ms: (value) => `${Math.round(value)} 毫秒`,
    s: (value) => `${value.toFixed(value < 9.95 ? 1 : 0)} 秒`,
    tokens: (hole, all) => `${hole}/${all} 个图块`,
    saved: (time) => `约省 ${time}`,
    empty: "遮罩为空：原图返回",
    emptyContext: "遮罩为空：无需编码",
    ran: (time, tokens) => `编码器已运行：${time} · ${tokens}`,
    reused: "编码器未运行：由缓存返回",
    kept: "没有变化：沿用已有结果",
    stored: (name, megabytes) => `${name} · ${megabytes} MB`,
    edits: (count) => `${count} 个编辑`,
    calls: (count) => `分 ${count} 次解码`,
    stepTip: "每步用时 ",
    savedTip: "这些步若计算全部图块会多用的时间，按本机实测的速度估计。每步用时 ",
    contextTip: "同样的图像、遮罩和模型只编码一次。服务器启动以来编码器的运行次数：",
  },
};

/** The entry of a table { en, zh } for the page's language. */
export function inPageLanguage(table) {
  return table[app.extensionManager?.setting?.get("Comfy.Locale")] ?? table.en;
}

export function words() {
  return inPageLanguage(WORDS);
}

export function duration(milliseconds) {
  return milliseconds < 1000 ? words().ms(milliseconds) : words().s(milliseconds / 1000);
}
