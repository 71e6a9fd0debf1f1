// What a run says in words on its node: one sentence for each code of nodes/messages.py, in both languages.
// A message is { code, ...values }.
export const MESSAGES = {
  en: {},
  zh: {},
};
