// Gives a language other than English back to custom nodes on frontends that lose it.
// The page merges every pack's `locales/` into its texts before it loads the language's own file, and from 1.3x on that
// file replaces the whole language (seen in 1.32.9: a Chinese page shows English names). The same merge is repeated here
// once the language has arrived. Where the page kept the names, or is built otherwise, this does nothing.
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";

const OURS = "nodeDefs.LazyDecode.display_name";
const THEIRS = "nodeDefs.KSampler.display_name";
const PATIENCE = 5000; // ms
const PAUSE = 10; // ms

/** The page's vue-i18n, which is provided under a symbol that vue-i18n leaves on the Vue app. */
function pageTexts() {
  const page = /** @type {any} */ (document.getElementById("vue-app"))?.__vue_app__;
  return page?._context?.provides?.[page.__VUE_I18N_SYMBOL__]?.global;
}

async function arrived(texts, locale) {
  for (const start = performance.now(); performance.now() - start < PATIENCE; ) {
    if (texts.te(THEIRS, locale)) return true;
    await new Promise((resolve) => setTimeout(resolve, PAUSE));
  }
  return false;
}

async function restore(locale) {
  const texts = pageTexts();
  if (!texts?.mergeLocaleMessage || !locale || locale === "en") return;
  const packs = await (await api.fetchApi("/i18n")).json();
  if (!packs[locale] || !(await arrived(texts, locale)) || texts.te(OURS, locale)) return;
  texts.mergeLocaleMessage(locale, packs[locale]);
}

async function tryRestore(locale) {
  try {
    await restore(locale);
  } catch (error) {
    console.warn("[LazyDiffusion] node names stay English:", error);
  }
}

app.registerExtension({
  name: "lazydiffusion.translations",

  // Before the page reads the node definitions.
  async init() {
    app.ui.settings.addEventListener("Comfy.Locale.change", (/** @type {any} */ { detail }) => tryRestore(detail?.value));
    await tryRestore(app.extensionManager?.setting?.get("Comfy.Locale"));
  },
});
