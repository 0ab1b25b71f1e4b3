// Where each n-gram stands without its first label, for one CPU thread: the tables have millions.
//
// Does: walk two lists of children that ascend side by side, for every node with children.
// Does not know: probabilities, files, Python. The specification is _searched of ngram.py.

#include <cstdint>
#include <vector>

// Of ``nodes`` nodes the first ``inner`` say how many children they have; 0 if they are no trie
// that has every n-gram without its first label too.
extern "C" int64_t follow_ends(int64_t nodes, int64_t inner, const int32_t *label,
                               const int32_t *children, int32_t *number, int32_t *shorter) {
  std::vector<int32_t> ends(nodes), first(inner);
  int64_t next = 1 + children[0];
  first[0] = 1;
  for (int64_t node = 1; node < inner; ++node) {
    if (next <= node) return 0;
    first[node] = next;
    int64_t end = ends[node], there = first[end], stop = there + children[end];
    for (int64_t after = next + children[node]; next < after; ++next) {
      while (there < stop && label[there] < label[next]) ++there;
      if (there == stop || label[there] != label[next]) return 0;
      ends[next] = there;
      shorter[next] = number[there];
      if (!number[next]) number[next] = shorter[next];
    }
  }
  return 1;
}
