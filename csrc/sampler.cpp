#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "candidates.h"

namespace penstock {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr int64_t kFew = 4096;     // candidates that are looked at one by one
constexpr int64_t kNucleus = 256;  // candidates that are most often enough for top_p
constexpr float kGreedy = 1e-5f;   // temperatures below mean the likeliest token

int64_t sum_blocks(int64_t vocab) { return (vocab + kSumBlock - 1) / kSumBlock; }

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
        : math_(math), b_(batch), i_(i), raw_(raw), vocab_(vocab), memory_(at), c_(math, vocab, memory_) {}

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
            x = logits_;
            max = math_.scan(x, vocab_).max;
            if (max == -kInf) return -1;
        }
        if (b_.target[i_] >= 0) return b_.target[i_];
        const float temperature = b_.temperature[i_];
        if (temperature < kGreedy) return static_cast<int32_t>(math_.find(x, vocab_, max));
        if (temperature != 1.0f) {
            math_.divide(x, vocab_, temperature, logits_);
            x = logits_;
        }
        RowScan scan = math_.scan(x, vocab_);
        if (!scan.sane && x == logits_) {  // an overflow: such a token is no candidate
            std::replace_if(logits_, logits_ + vocab_, [](float v) { return !(v < kInf); }, -kInf);
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
        float* x = logits_;
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
        const double p = b_.top_p[i_], min_p = b_.min_p[i_], typical_p = b_.typical_p[i_];
        if (typical_p < 1) return draw_of_typical(x, max, k, p, min_p, typical_p, u);
        if (k > 0 && k < vocab_) return draw_of_best(x, max, k, p, min_p, u);
        if (p >= 1 && min_p <= 0) return draw_by_id(x, max, u);
        const int64_t n = few(x, max, p, min_p);
        return n > 0 ? draw_of(n, u) : draw_by_bins(x, max, p, min_p, u);
    }

    // Among the k best.
    int32_t draw_of_best(const float* x, float max, int64_t k, double p, double min_p, double u) {
        int64_t n = c_.keep_best(x, max, k);
        if (n <= kSortAtOnce) c_.sort(n);
        return draw_of(cut(n, c_.mass_of(n), p, min_p), u);
    }

    // Among the most typical ones of what top_k, top_p and min_p leave.
    int32_t draw_of_typical(const float* x, float max, int64_t k, double p, double min_p, double typical_p, double u) {
        int64_t n = k > 0 && k < vocab_ ? c_.keep_best(x, max, k) : c_.gather(x, max, 0, kBins - 1);
        n = cut(n, c_.mass_of(n), p, min_p);
        const double total = c_.mass_of(n);
        double mean = 0;
        for (int64_t j = 0; j < n; j++) mean += c_[j].mass * (static_cast<double>(c_[j].logit) - max);
        mean /= total;
        const auto away = [&](const Candidate& a) { return std::fabs(static_cast<double>(a.logit) - max - mean); };
        const auto nearer = [&](const Candidate& a, const Candidate& b) {
            const double d = away(a), e = away(b);
            return d != e ? d < e : better(a, b);
        };
        const auto enough = [&](double mass) { return mass >= typical_p * total; };
        const double border = away(c_[c_.prefix(n, enough, nearer)]);
        return draw_of(c_.keep(n, [&](const Candidate& a) { return away(a) <= border; }), u);
    }

    // What top_p of `total` and min_p leave of n candidates; returns how many.
    int64_t cut(int64_t n, double total, double p, double min_p) {
        if (p < 1) n = c_.prefix(n, [&](double mass) { return mass >= p * total; }) + 1;
        if (min_p > 0) n = c_.keep(n, [&](const Candidate& a) { return a.mass >= min_p; });
        return n;
    }

    int32_t draw_of(int64_t n, double u) {
        if (n <= kSortAtOnce) c_.sort(n);
        const double goal = u * c_.mass_of(n);
        return c_[c_.prefix(n, [&](double mass) { return mass > goal; })].id;
    }

    // All that top_p and min_p leave of the vocabulary, where that is as little as it nearly always is; else 0.
    int64_t few(const float* x, float max, double p, double min_p) {
        if (p >= 1) return cut(c_.gather(x, max, 0, bin_at(-std::log(min_p)) + 1, kFew), 0, p, min_p);
        const double total = math_.sum_exp(x, vocab_, max, nullptr);
        const int64_t n = c_.keep_best(x, max, std::min(kNucleus, vocab_));
        return c_.mass_of(n) >= p * total ? cut(n, total, p, min_p) : 0;
    }

    // Among the whole vocabulary, cut by top_p and min_p. What is kept are whole bins, then the best `n` of the next
    // ones; only the bins at a border are looked into and sorted.
    int32_t draw_by_bins(const float* x, float max, double p, double min_p, double u) {
        const double total = math_.bin_exp(x, vocab_, max, masses_);
        int whole = kBins;
        int64_t n = 0;
        double mass = total;
        Candidate worst{0, -kInf, INT32_MAX};
        if (p < 1) {
            double before = 0;
            for (whole = 0; whole + 1 < kBins && before + masses_[whole] < p * total;) before += masses_[whole++];
            n = c_.gather(x, max, whole, whole);
            n = c_.prefix(n, [&](double more) { return before + more >= p * total; }) + 1;
            mass = before + c_.mass_of(n);
            if (n > 0) worst = c_[n - 1];
        }
        const int border = min_p > 0 ? bin_at(-std::log(min_p)) : kBins;
        if (border - 1 <= whole) {
            const int first = std::max(border - 1, 0), last = std::min({border + 1, kBins - 1, whole});
            n = c_.gather(x, max, first, last);
            const auto kept = [&](const Candidate& a) { return a.mass >= min_p && !better(worst, a); };
            n = c_.keep(n, kept);
            whole = first;
            mass = c_.mass_of(n);
            for (int b = 0; b < whole; b++) mass += masses_[b];
        }
        const double goal = u * mass;
        double before = 0;
        for (int b = 0; b < whole; before += masses_[b++]) {
            if (before + masses_[b] <= goal) continue;
            n = c_.gather(x, max, b, b);
            break;
        }
        if (n == 0) n = c_.gather(x, max, 0, 0);  // rounding alone leads here
        return c_[c_.prefix(n, [&](double more) { return before + more > goal; })].id;
    }

    static int bin_at(double distance) {
        return static_cast<int>(std::min(distance * kBinsPerUnit, static_cast<double>(kBins - 1)));
    }

    int32_t draw_by_id(const float* x, float max, double u) {
        const double goal = u * math_.sum_exp(x, vocab_, max, sums_);
        double before = 0;
        int64_t block = 0;
        const int64_t blocks = sum_blocks(vocab_);
        while (block + 1 < blocks && before + sums_[block] <= goal) before += sums_[block++];
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
        const int64_t n = c_.keep_best(raw_, max, std::min<int64_t>(k, vocab_));
        c_.sort(n);
        for (int64_t j = 0; j < n; j++) {
            out.top_ids[i_ * out.top + j] = c_[j].id;
            out.top_logprobs[i_ * out.top + j] = static_cast<float>(c_[j].logit - log_sum);
        }
    }

    const SamplerMath& math_;
    const SamplingBatch& b_;
    const int64_t i_;
    const float* raw_;
    const int64_t vocab_;
    Carver memory_;
    Candidates c_;
    float* const logits_ = memory_.take<float>(vocab_);
    double* const sums_ = memory_.take<double>(sum_blocks(vocab_));
    double* const masses_ = memory_.take<double>(kBins);
};

}  // namespace

int64_t sampler_scratch_bytes(int64_t vocab) {
    return Candidates::bytes(vocab) + Carver::bytes<float>(vocab) + Carver::bytes<double>(sum_blocks(vocab)) +
           Carver::bytes<double>(kBins);
}

void sample(const SamplerMath& math, const SamplingBatch& batch, const float* logits, int64_t ld, int64_t vocab,
            const SampleOutput& out, const Worker& worker) {
    for (int64_t i = worker.id; i < batch.size(); i += worker.count) {
        Entry(math, batch, i, logits + batch.row[i] * ld, vocab, worker.scratch).run(out);
    }
}

}  // namespace penstock
