// CTC prefix beam search over the frames of a step, for one CPU thread.
//
// Does: let every hypothesis stay or add a piece, with a language model and phrases in the path
// scores; say what is decided and what the best hypothesis has said beyond it.
// Does not know: streams, text, Python. The specification is search.py, line by line. Every row is
// computed alone: batch mates change no bit.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr float NEVER = -INFINITY;
constexpr int64_t HASH = 1000003;
constexpr int MAX_WIDTH = 64, MAX_TRIED = 64;

inline float log_add(float a, float b) {
  float high = a > b ? a : b, low = a > b ? b : a;
  return low == NEVER ? high : high + std::log1p(std::exp(low - high));
}

}  // namespace

// The structures below are those of native_search.py, field by field.
extern "C" {

struct Rules {
  int64_t width, pieces, tried, phrase_tried, room, patience, pause, peak;
  float sure_blank, reach, phrase_reach, bonus, relief;
};

struct Child {
  int32_t label, next;
  float log_prob;
};

struct State {
  int32_t begin, count, suffix;
  float back_off;
};

struct Ngram {  // null: there is none
  const Child *child;
  const State *state;
};

struct Phrases {
  const int64_t *number_S, *base, *begin, *count, *piece, *next;
  const float *gain, *given_back;
  const int64_t *first_next;  // [automata, pieces]
  const float *first_gain;
};

struct Beams {  // [slots, width], the last three [slots, width, room]
  int64_t *prefix, *before;
  int32_t *last, *boost, *lm, *count, *newest;
  float *blank, *piece, *favour, *owed;
  int32_t *said, *frame;
  float *sure;
};

struct Told {  // of each row: decided pieces, then the open ones of the best hypothesis
  int64_t room;
  int32_t *decided, *open;                 // [rows]
  int32_t *piece, *frame, *at;             // [rows, room]
  float *sure;
};

}  // extern "C"

namespace {

struct Hint {
  float gain, owed;
  int32_t boost, lm;
};

struct Search {
  const Rules &rules;
  const Ngram &ngram;
  const Phrases &phrases;

  // Source: asr.decoder.ngram.NgramModel.look, of one piece.
  float heard(int32_t at, int32_t piece, int32_t *next) const {
    float lost = 0;
    const Child *found = ngram.child + 1 + piece;  // behind nothing: the dense first level
    while (at) {
      const State &state = ngram.state[at];
      const Child *first = ngram.child + state.begin, *last = first + state.count;
      first = std::lower_bound(first, last, piece,
                               [](const Child &child, int32_t p) { return child.label < p; });
      if (first != last && first->label == piece) {
        found = first;
        break;
      }
      lost += state.back_off;
      at = state.suffix;
    }
    *next = found->next;
    return lost + found->log_prob;
  }

  // Source: asr.decoder.boosting.Automaton.step.
  float favoured(int64_t number, int32_t state, int64_t piece, int32_t *next) const {
    int64_t at = phrases.base[number] + state;
    int64_t begin = phrases.begin[at], end = begin + phrases.count[at];
    for (int64_t move = begin; move < end; move++)
      if (phrases.piece[move] == piece) {
        *next = int32_t(phrases.next[move]);
        return phrases.gain[move];
      }
    *next = int32_t(phrases.first_next[number * rules.pieces + piece]);
    return phrases.first_gain[number * rules.pieces + piece] - phrases.given_back[at];
  }

  // Whether a piece goes on with a phrase that has begun.
  bool goes_on(int64_t number, int32_t state, int32_t piece) const {
    int32_t next;
    return state && favoured(number, state, piece, &next) > 0;
  }

  Hint hint(int64_t number, float lm_weight, const Hint &from, int32_t piece) const {
    Hint hint{0, from.owed, from.boost, from.lm};
    if (number) hint.gain = favoured(number, from.boost, piece, &hint.boost);
    // A language model of no weight is followed too: it may be given one later.
    float lm = ngram.child ? heard(from.lm, piece, &hint.lm) : 0;
    if (hint.gain <= 0) {
      hint.gain -= from.owed;
      hint.owed = 0;
    } else if (from.boost && lm < rules.relief) {  // on with a phrase: the model may not know it
      hint.owed += lm_weight * (rules.relief - lm);
      lm = rules.relief;
    }
    if (ngram.child) hint.gain += lm_weight * (lm + rules.bonus);
    return hint;
  }

  // Source: asr.decoder.base.confidence.
  float sure(float score) const {
    float classes = float(rules.pieces + 1);
    return std::min(1.0f, std::max(0.0f, (std::exp(score) * classes - 1) / (classes - 1)));
  }

  float given_back(int64_t number, int32_t boost) const {
    return phrases.given_back[phrases.base[number] + boost];
  }
};

// The hypotheses of one stream, and room for those of the next frame.
struct Row {
  const Rules &rules;
  int64_t *prefix, *before;
  int32_t *last, *boost, *lm, *count, *newest;
  float *blank, *piece, *favour, *owed;
  int32_t *said, *frame;
  float *sure;

  Row(const Rules &r, const Beams &b, int64_t slot) : rules(r) {
    int64_t at = slot * r.width, deep = at * r.room;
    prefix = b.prefix + at, before = b.before + at, last = b.last + at, boost = b.boost + at;
    lm = b.lm + at, count = b.count + at, newest = b.newest + at, blank = b.blank + at;
    piece = b.piece + at, favour = b.favour + at, owed = b.owed + at;
    said = b.said + deep, frame = b.frame + deep, sure = b.sure + deep;
  }

  float score(int64_t k) const { return log_add(blank[k], piece[k]) + favour[k]; }

  void bury(int64_t k) {
    blank[k] = piece[k] = NEVER;
    prefix[k] = -2 - k, before[k] = -1;
  }

  template <class T> void gather(T *values, const int *from, int64_t each) {
    T old[MAX_WIDTH * 64];
    int64_t width = rules.width;
    std::memcpy(old, values, width * each * sizeof(T));
    for (int64_t k = 0; k < width; k++)
      if (from[k] != k) std::memcpy(values + k * each, old + from[k] * each, each * sizeof(T));
  }

  // Put hypotheses into another order, perhaps one several times.
  void pick(const int *from) {
    gather(prefix, from, 1), gather(before, from, 1), gather(last, from, 1);
    gather(boost, from, 1), gather(lm, from, 1), gather(count, from, 1);
    gather(newest, from, 1), gather(owed, from, 1), gather(blank, from, 1);
    gather(piece, from, 1), gather(favour, from, 1), gather(said, from, rules.room);
    gather(frame, from, rules.room), gather(sure, from, rules.room);
  }

  // Once the best one pauses, the best is who is it with unfinished phrases given back.
  void judge(const Search &search, int64_t number, int64_t at) {
    if (at - newest[0] < rules.pause) return;
    int best = 0, from[MAX_WIDTH];
    float most = NEVER;
    for (int k = 0; k < rules.width; k++) {
      float given_back = search.given_back(number, boost[k]);
      float worth = score(k) + (given_back == 0 ? 0 : -given_back - owed[k]);
      if (worth > most) most = worth, best = k;
      from[k] = k;
    }
    if (best == 0) return;
    std::swap(from[0], from[best]);
    pick(from);
  }

  // Hypotheses that differ from the best one in what is old die: after a pause of the best one
  // that is all it said, in running speech what is `patience` frames old.
  void age(int64_t at) {
    bool is_pause = at - newest[0] >= rules.pause;
    int64_t until = at - (is_pause ? rules.pause : rules.patience), sure_of = 0;
    while (sure_of < count[0] && frame[sure_of] <= until) sure_of++;
    for (int64_t k = 1; k < rules.width; k++) {
      const int32_t *other = said + k * rules.room;
      bool differs = count[k] < sure_of || std::memcmp(other, said, sure_of * sizeof(int32_t)) ||
                     (is_pause && count[k] > sure_of && frame[k * rules.room + sure_of] <= until);
      if (differs) bury(k);
    }
  }

  // How many pieces all living hypotheses begin with.
  int64_t agreed() const {
    int64_t number = count[0];
    for (int64_t k = 1; k < rules.width && number; k++) {
      if (score(k) == NEVER) continue;
      number = std::min<int64_t>(number, count[k]);
      const int32_t *other = said + k * rules.room;
      for (int64_t i = 0; i < number; i++)
        if (other[i] != said[i]) number = i;
    }
    return number;
  }

  void forget(int64_t number) {
    int64_t left = rules.room - number;
    for (int64_t k = 0; k < rules.width; k++) {
      std::memmove(said + k * rules.room, said + k * rules.room + number, left * sizeof(*said));
      std::memmove(frame + k * rules.room, frame + k * rules.room + number, left * sizeof(*frame));
      std::memmove(sure + k * rules.room, sure + k * rules.room + number, left * sizeof(*sure));
      count[k] = std::max<int32_t>(0, count[k] - int32_t(number));
    }
  }
};

struct Choice {
  float score;
  int from, tried;  // tried -1: stays
};

void search_frame(const Search &search, Row &row, const float *scores, int64_t number,
                  float lm_weight, int64_t at, std::vector<int32_t> &near) {
  const Rules &rules = search.rules;
  const int width = int(rules.width);
  const int64_t blank = rules.pieces;
  int32_t pieces[MAX_TRIED];
  int tried = 0, usual = 0;  // those behind the usual ones only where they go on with a phrase
  if (std::exp(scores[blank]) < rules.sure_blank) {
    float best = *std::max_element(scores, scores + blank + 1);
    float reach = number ? std::max(rules.reach, rules.phrase_reach) : rules.reach;
    near.clear();
    for (int64_t p = 0; p < blank; p++)
      if (best - scores[p] <= reach) near.push_back(int32_t(p));
    tried = int(std::min<int64_t>(near.size(), number ? rules.phrase_tried : rules.tried));
    std::partial_sort(near.begin(), near.begin() + tried, near.end(), [&](int32_t a, int32_t b) {
      return scores[a] > scores[b] || (scores[a] == scores[b] && a < b);
    });
    std::copy(near.begin(), near.begin() + tried, pieces);
    while (usual < tried && usual < rules.tried && best - scores[pieces[usual]] <= rules.reach)
      usual++;
  }
  Hint here[MAX_WIDTH];
  for (int k = 0; k < width; k++) {
    if (search.given_back(number, row.boost[k]) == 0) row.owed[k] = 0;
    here[k] = {0, row.owed[k], row.boost[k], row.lm[k]};
  }
  float either[MAX_WIDTH], stay_blank[MAX_WIDTH], stay_piece[MAX_WIDTH], grown[MAX_WIDTH];
  float more[MAX_WIDTH][MAX_TRIED];
  Hint hints[MAX_WIDTH][MAX_TRIED];
  for (int k = 0; k < width; k++) {
    either[k] = log_add(row.blank[k], row.piece[k]);
    stay_blank[k] = either[k] + scores[blank];
    stay_piece[k] = row.last[k] == blank ? NEVER : row.piece[k] + scores[row.last[k]];
    grown[k] = NEVER;
    for (int c = 0; c < tried; c++) {
      // A piece said twice needs a blank between.
      float before = pieces[c] == row.last[k] ? row.blank[k] : either[k];
      bool is_in = c < usual || search.goes_on(number, row.boost[k], pieces[c]);
      more[k][c] = is_in ? before + scores[pieces[c]] : NEVER;
    }
  }
  // A hypothesis grown into a prefix that another one has already is that other one.
  for (int to = 0; to < width; to++)
    for (int from = 0; from < width; from++) {
      if (row.prefix[from] != row.before[to]) continue;
      for (int c = 0; c < tried; c++)
        if (pieces[c] == row.last[to]) {
          grown[to] = std::max(grown[to], more[from][c]);
          more[from][c] = NEVER;
        }
    }
  Choice choices[MAX_WIDTH * (MAX_TRIED + 1)];
  int number_of = 0;
  for (int k = 0; k < width; k++) {
    stay_piece[k] = log_add(stay_piece[k], grown[k]);
    choices[number_of++] = {log_add(stay_blank[k], stay_piece[k]) + row.favour[k], k, -1};
  }
  for (int k = 0; k < width; k++)
    for (int c = 0; c < tried; c++) {
      if (more[k][c] == NEVER) continue;
      hints[k][c] = search.hint(number, lm_weight, here[k], pieces[c]);
      choices[number_of++] = {more[k][c] + row.favour[k] + hints[k][c].gain, k, c};
    }
  std::partial_sort(choices, choices + width, choices + number_of,
                    [](const Choice &a, const Choice &b) { return a.score > b.score; });
  int from[MAX_WIDTH];
  for (int k = 0; k < width; k++) from[k] = choices[k].from;
  row.pick(from);
  for (int k = 0; k < width; k++) {
    int f = from[k], c = choices[k].tried;
    if (c < 0) {
      if (row.count[k] && at - row.newest[k] <= rules.peak) {
        float &sure = row.sure[k * rules.room + row.count[k] - 1];
        sure = std::max(sure, search.sure(scores[row.last[k]]));
      }
      row.blank[k] = stay_blank[f], row.piece[k] = stay_piece[f];
      continue;
    }
    row.blank[k] = NEVER, row.piece[k] = more[f][c];
    row.favour[k] += hints[f][c].gain;
    row.boost[k] = hints[f][c].boost, row.lm[k] = hints[f][c].lm, row.owed[k] = hints[f][c].owed;
    int64_t place = k * rules.room + std::min<int64_t>(row.count[k], rules.room - 1);
    row.said[place] = pieces[c], row.frame[place] = row.newest[k] = int32_t(at);
    row.sure[place] = search.sure(scores[pieces[c]]);
    row.count[k]++;
    row.before[k] = row.prefix[k];
    row.prefix[k] = row.prefix[k] * HASH + pieces[c] + 1;
    row.last[k] = pieces[c];
  }
  // Only differences count: small numbers stay exact however long the stream is.
  float top = log_add(row.blank[0], row.piece[0]), first = row.favour[0];
  for (int k = 0; k < width; k++) {
    row.blank[k] -= top, row.piece[k] -= top, row.favour[k] -= first;
    if (row.score(k) == NEVER) row.bury(k);
  }
}

}  // namespace

// scores [rows, steps, pieces + 1]: log probabilities, blank last.
extern "C" void search_step(const Rules *rules, const Ngram *ngram, const Phrases *phrases,
                            const Beams *beams, const Told *told, int64_t rows, int64_t steps,
                            const float *scores, const int64_t *slots, const int64_t *valid,
                            const int64_t *first_frame, const float *lm_weight_S,
                            int64_t *told_S) {
  Search search{*rules, *ngram, *phrases};
  std::vector<int32_t> near;  // pieces that are tried on a frame
  for (int64_t r = 0; r < rows; r++) {
    Row row(*rules, *beams, slots[r]);
    int64_t out = r * told->room, number = phrases->number_S[slots[r]];
    int64_t &last_told = told_S[slots[r]];
    int32_t decided = 0;
    auto tell = [&](int64_t i, int64_t at) {
      last_told = std::max<int64_t>(last_told, row.frame[i]);
      told->piece[out + decided] = row.said[i], told->frame[out + decided] = int32_t(last_told);
      told->at[out + decided] = int32_t(at), told->sure[out + decided++] = row.sure[i];
    };
    for (int64_t t = 0; t < valid[r]; t++) {
      const float *here = scores + (r * steps + t) * (rules->pieces + 1);
      int64_t at = first_frame[r] + t;
      search_frame(search, row, here, number, lm_weight_S[slots[r]], at, near);
      row.judge(search, number, at);
      row.age(at);
      int64_t agreed = row.agreed();
      for (int64_t i = 0; i < agreed; i++) tell(i, at);
      if (agreed) row.forget(agreed);
    }
    told->decided[r] = decided;
    told->open[r] = valid[r] ? row.count[0] : 0;
    for (int64_t i = 0; i < told->open[r]; i++) {
      int64_t to = out + decided + i;
      told->piece[to] = row.said[i], told->sure[to] = row.sure[i];
      told->frame[to] = told->at[to] = std::max<int32_t>(int32_t(last_told), row.frame[i]);
    }
  }
}
