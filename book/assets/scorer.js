// How search ranks pages: those whose title has the reader's words first, pages of the reference last.
var Scorer = {
  score: ([docname, title, anchor, descr, score]) => {
    const asked = (new URLSearchParams(location.search).get("q") ?? "").toLowerCase().split(/\W+/);
    const found = title.toLowerCase().split(/\W+/).filter((word) => word.length > 3 && asked.includes(word));
    return score + 10 * found.length - (docname.startsWith("book/reference/") ? 1000 : 0);
  },
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
