#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <type_traits>

namespace penstock {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kGreedy = 1e-5f;       // temperatures below mean the likeliest token
constexpr int64_t kSortAtOnce = 1024;  // fewer candidates are simply sorted

struct Candidate {
    double mass;  // exp(logit - max)
    float logit;
    int32_t id;
};

bool better(const Candidate& a, const Candidate& b) { return a.logit != b.logit ? a.logit > b.logit : a.id < b.id; }

int64_t line(int64_t bytes) { return (bytes + 63) / 64 * 64; }
int64_t sum_blocks(int64_t vocab) { return (vocab + kSumBlock - 1) / kSumBlock; }
int64_t max_groups(int64_t vocab) { return (vocab + kMaxGroup - 1) / kMaxGroup; }

struct Scratch {
    float* logits;
    int32_t* indexes;
    Candidate* candidates;
    double* sums;
    float* maxima;

    Scratch(std::byte* at, int64_t vocab) {
        auto take = [&at](auto*& to, int64_t n) {
            to = reinterpret_cast<std::remove_reference_t<decltype(to)>>(at);
            at += line(n * static_cast<int64_t>(sizeof *to));
        };
        take(logits, vocab);
        take(indexes, vocab);
        take(candidates, vocab);
        take(sums, sum_blocks(vocab));
        take(maxima, max_groups(vocab));
    }
};

// splitmix64's finaliser over (seed, draw): one number of [0, 1) with 53 bits, a function of both alone.
double uniform(uint64_t seed, int64_t draw) {
    uint64_t z = seed + (static_cast<uint64_t>(draw) + 1) * 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    z ^= z >> 31;
    return static_cast<double>(z >> 11) * 0x1.0p-53;
}

class Entry {
  public:
    Entry(const SamplerMath& math, const SamplingBatch& batch, int64_t i, const float* raw, int64_t vocab,
          std::byte* at)
        : math_(math), b_(batch), i_(i), raw_(raw), vocab_(vocab), s_(at, vocab) {}

    void run(const SampleOutput& out) {
        const RowScan scan = math_.scan(raw_, vocab_);
        const int32_t token = scan.sane && scan.max > -kInf ? choose(scan.max) : -1;
        out.invalid[i_] = token < 0;
        out.token_ids[i_] = token;
        if (out.logprobs != nullptr) score(out, token, scan.max);
    }

  private:
    // The token, or -1 where nothing is left to choose.
    int32_t choose(float max) {
        const float* x = raw_;
        if (changes()) {
            prepare();
            x = s_.logits;
            max = math_.scan(x, vocab_).max;
            if (max == -kInf) return -1;
        }
        if (b_.target[i_] >= 0) return b_.target[i_];
        const float temperature = b_.temperature[i_];
        if (temperature < kGreedy) return static_cast<int32_t>(math_.find(x, vocab_, max));
        if (temperature != 1.0f) {
            math_.divide(x, vocab_, temperature, s_.logits);
            x = s_.logits;
        }
        RowScan scan = math_.scan(x, vocab_);
        if (!scan.sane && x == s_.logits) {  // an overflow: such a token is no candidate
            std::replace_if(s_.logits, s_.logits + vocab_, [](float v) { return !(v < kInf); }, -kInf);
            scan = math_.scan(x, vocab_);
        }
        return scan.max == -kInf ? -1 : draw(x, scan.max);
    }

    bool changes() const {
        return b_.mask_row[i_] >= 0 || b_.bias_start[i_ + 1] > b_.bias_start[i_] ||
               (b_.history_start[i_ + 1] > b_.history_start[i_] &&
                (b_.repetition[i_] != 1.0f || b_.presence[i_] != 0.0f || b_.frequency[i_] != 0.0f));
    }

    // Scratch logits = raw + bias, masked, penalised.
    void prepare() {
        float* x = s_.logits;
        std::memcpy(x, raw_, vocab_ * sizeof(float));
        for (int64_t j = b_.bias_start[i_]; j < b_.bias_start[i_ + 1]; j++) x[b_.bias_ids[j]] += b_.bias_values[j];
        if (b_.mask_row[i_] >= 0) {
            const uint32_t* mask = b_.masks + b_.mask_row[i_] * b_.mask_words;
            for (int64_t j = 0; j < vocab_; j++) {
                if ((mask[j / 32] >> (j % 32) & 1) == 0) x[j] = -kInf;
            }
        }
        const float repetition = b_.repetition[i_], presence = b_.presence[i_], frequency = b_.frequency[i_];
        for (int64_t j = b_.history_start[i_]; j < b_.history_start[i_ + 1]; j++) {
            float& value = x[b_.history_ids[j]];
            const int32_t count = b_.history_counts[j];
            if (repetition != 1.0f && (count > 0 || b_.history_prompt[j] != 0)) {
                value = value < 0 ? value * repetition : value / repetition;
            }
            if (count > 0) {
                value -= presence;
                value -= frequency * static_cast<float>(count);
            }
        }
    }

    int32_t draw(const float* x, float max) {
        const double u = uniform(b_.seed[i_], b_.draw[i_]);
        const int64_t k = b_.top_k[i_];
        const double p = b_.top_p[i_], min_p = b_.min_p[i_];
        const bool by_k = k > 0 && k < vocab_;
        if (!by_k && p >= 1 && min_p <= 0) return draw_by_id(x, max, u);
        int64_t n = by_k ? keep_best(x, max, k) : 0;
        double total = 0;
        if (by_k) {
            if (n <= kSortAtOnce) std::sort(s_.candidates, s_.candidates + n, better);
            total = mass_of(n);
        } else if (p < 1) {
            total = math_.sum_exp(x, vocab_, max, nullptr);
        }
        if (!by_k) n = keep_near(x, max, p, min_p, total);
        Candidate* c = s_.candidates;
        if (p < 1) n = prefix(n, [&](double mass) { return mass >= p * total; }) + 1;
        if (min_p > 0) n = std::partition(c, c + n, [&](const Candidate& a) { return a.mass >= min_p; }) - c;
        if (n <= kSortAtOnce) std::sort(c, c + n, better);
        const double goal = u * mass_of(n);
        return c[prefix(n, [&](double mass) { return mass > goal; })].id;
    }

    int32_t draw_by_id(const float* x, float max, double u) {
        const double goal = u * math_.sum_exp(x, vocab_, max, s_.sums);
        double before = 0;
        int64_t block = 0;
        const int64_t blocks = sum_blocks(vocab_);
        while (block + 1 < blocks && before + s_.sums[block] <= goal) before += s_.sums[block++];
        const int64_t begin = block * kSumBlock, end = std::min(begin + kSumBlock, vocab_);
        int64_t last = begin;  // with any mass: rounding may leave the goal a hair beyond the block's end
        for (int64_t j = begin; j < end; j++) {
            const double mass = std::exp(static_cast<double>(x[j]) - max);
            if (mass > 0) last = j;
            before += mass;
            if (before > goal) break;
        }
        return static_cast<int32_t>(last);
    }

    // ---------------------------------------------------------------------------------------------- candidates

    int64_t gather(const float* x, float max, float threshold) {
        const int64_t n = math_.at_least(x, vocab_, threshold, s_.indexes);
        for (int64_t j = 0; j < n; j++) {
            const int32_t id = s_.indexes[j];
            s_.candidates[j] = {0, x[id], id};
        }
        weigh(n, max);
        return n;
    }

    void weigh(int64_t n, float max) {
        for (int64_t j = 0; j < n; j++) {
            Candidate& c = s_.candidates[j];
            c.mass = std::exp(static_cast<double>(c.logit) - max);
        }
    }

    // The k best. The k-th largest of the groups' maxima is no larger than the k-th largest entry: all before it is
    // gathered in one pass.
    int64_t keep_best(const float* x, float max, int64_t k) {
        float threshold = -kInf;
        const int64_t groups = max_groups(vocab_);
        if (k <= groups) {
            math_.group_max(x, vocab_, s_.maxima);
            std::nth_element(s_.maxima, s_.maxima + (k - 1), s_.maxima + groups, std::greater<float>());
            threshold = s_.maxima[k - 1];
        }
        const int64_t n = gather(x, max, threshold);
        if (n > k) std::nth_element(s_.candidates, s_.candidates + (k - 1), s_.candidates + n, better);
        return k;
    }

    // A superset of what top_p and min_p keep: all within a distance of the best that grows until it is enough.
    int64_t keep_near(const float* x, float max, double p, double min_p, double total) {
        for (float distance = 8;; distance *= 2) {
            const bool all = distance > 1000;
            const int64_t n = gather(x, max, all ? -kInf : max - distance);
            if (all || (min_p > 0 && std::exp(-static_cast<double>(distance)) < 0.999 * min_p)) return n;
            if (p < 1 && mass_of(n) >= (p + 1e-9) * total) return n;
        }
    }

    double mass_of(int64_t n) const {
        double mass = 0;
        for (int64_t j = 0; j < n; j++) mass += s_.candidates[j].mass;
        return mass;
    }

    // The place, in order, of the first of n candidates at which `enough(mass up to and with it)` holds, or the last
    // one; all before it are moved before it. Halves are told apart without being sorted.
    template <class F>
    int64_t prefix(int64_t n, F enough) {
        Candidate* c = s_.candidates;
        int64_t begin = 0, end = n;
        double before = 0;
        while (end - begin > kSortAtOnce) {
            const int64_t middle = begin + (end - begin) / 2;
            std::nth_element(c + begin, c + middle, c + end, better);
            double mass = before;
            for (int64_t j = begin; j < middle; j++) mass += c[j].mass;
            if (enough(mass)) {
                end = middle;
            } else {
                begin = middle;
                before = mass;
            }
        }
        std::sort(c + begin, c + end, better);
        for (int64_t j = begin; j < end; j++) {
            before += c[j].mass;
            if (enough(before)) return j;
        }
        return end - 1;
    }

    // ---------------------------------------------------------------------------------------------- logprobs

    void score(const SampleOutput& out, int32_t token, float max) {
        const int32_t k = b_.num_logprobs[i_];
        out.logprobs[i_] = -kInf;
        out.ranks[i_] = 0;
        std::fill_n(out.top_ids + i_ * out.top, out.top, -1);
        std::fill_n(out.top_logprobs + i_ * out.top, out.top, -kInf);
        if (k < 0 || token < 0) return;
        const double log_sum = std::log(math_.sum_exp(raw_, vocab_, max, nullptr)) + max;
        const float chosen = raw_[token];
        out.logprobs[i_] = static_cast<float>(chosen - log_sum);
        out.ranks[i_] = static_cast<int32_t>(math_.count_greater(raw_, vocab_, chosen) + 1);
        if (k == 0) return;
        const int64_t n = keep_best(raw_, max, std::min<int64_t>(k, vocab_));
        std::sort(s_.candidates, s_.candidates + n, better);
        for (int64_t j = 0; j < n; j++) {
            out.top_ids[i_ * out.top + j] = s_.candidates[j].id;
            out.top_logprobs[i_ * out.top + j] = static_cast<float>(s_.candidates[j].logit - log_sum);
        }
    }

    const SamplerMath& math_;
    const SamplingBatch& b_;
    const int64_t i_;
    const float* raw_;
    const int64_t vocab_;
    Scratch s_;
};

}  // namespace

int64_t sampler_scratch_bytes(int64_t vocab) {
    return line(vocab * 4) * 2 + line(vocab * static_cast<int64_t>(sizeof(Candidate))) + line(sum_blocks(vocab) * 8) +
           line(max_groups(vocab) * 4);
}

void sample(const SamplerMath& math, const SamplingBatch& batch, const float* logits, int64_t ld, int64_t vocab,
            const SampleOutput& out, const Worker& worker) {
    for (int64_t i = worker.id; i < batch.size(); i += worker.count) {
        Entry(math, batch, i, logits + batch.row[i] * ld, vocab, worker.scratch).run(out);
    }
}

}  // namespace penstock
