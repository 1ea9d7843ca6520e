// A few of a row's entries, cut from the whole vocabulary without sorting it.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <type_traits>

#include "sampler_math.h"

namespace penstock {

constexpr int64_t kSortAtOnce = 1024;  // fewer candidates are simply sorted

struct Candidate {
    double mass;  // exp(logit - max)
    float logit;
    int32_t id;
};

inline bool better(const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

// Hands out arrays from one piece of memory, each on a line of its own.
class Carver {
  public:
    explicit Carver(std::byte* at) : at_(at) {}
    template <class T>
    T* take(int64_t n) {
        T* items = reinterpret_cast<T*>(at_);
        at_ += bytes<T>(n);
        return items;
    }
    template <class T>
    static int64_t bytes(int64_t n) {
        return (n * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
    }

  private:
    std::byte* at_;
};

class Candidates {
  public:
    Candidates(const SamplerMath& math, int64_t vocab, Carver& memory)
        : math_(math),
          vocab_(vocab),
          indexes_(memory.take<int32_t>(vocab)),
          items_(memory.take<Candidate>(vocab)),
          maxima_(memory.take<float>(groups(vocab))) {}
    static int64_t bytes(int64_t vocab) {
        return Carver::bytes<int32_t>(vocab) + Carver::bytes<Candidate>(vocab) + Carver::bytes<float>(groups(vocab));
    }

    Candidate* data() { return items_; }
    const Candidate& operator[](int64_t i) const { return items_[i]; }
    void sort(int64_t n) { std::sort(items_, items_ + n, better); }
    // The first n, so that those kept come first; returns how many.
    template <class F>
    int64_t keep(int64_t n, F kept) {
        return std::partition(items_, items_ + n, kept) - items_;
    }

    // Entries of bins first to last, without those that are impossible (-inf); none where there are more than `most`.
    int64_t gather(const float* x, float max, int first, int last, int64_t most = INT64_MAX) {
        last = std::min(last, kBins - 1);
        const float slack = (std::fabs(max) + 64) * 1e-6f;  // more than any rounding of a border
        const float high = first == 0 ? max : max - static_cast<float>(first) / kBinsPerUnit + slack;
        const float low = last == kBins - 1 ? std::numeric_limits<float>::lowest()
                                            : max - static_cast<float>(last + 1) / kBinsPerUnit - slack;
        const int64_t found = math_.between(x, vocab_, low, high, indexes_);
        if (found > most) return 0;
        const auto other = [&](int32_t id) {
            const int bin = bin_of(x[id], max);
            return bin < first || bin > last;
        };
        return take(x, max, std::remove_if(indexes_, indexes_ + found, other) - indexes_);
    }

    // The k best. The k-th largest of the groups' maxima is no larger than the k-th largest entry: all before it is
    // gathered in one pass.
    int64_t keep_best(const float* x, float max, int64_t k) {
        float threshold = -std::numeric_limits<float>::infinity();
        const int64_t count = groups(vocab_);
        if (k <= count) {
            math_.group_max(x, vocab_, maxima_);
            std::nth_element(maxima_, maxima_ + (k - 1), maxima_ + count, std::greater<float>());
            threshold = maxima_[k - 1];
        }
        const int64_t n =
            take(x, max, math_.between(x, vocab_, threshold, std::numeric_limits<float>::infinity(), indexes_));
        if (n > k) std::nth_element(items_, items_ + (k - 1), items_ + n, better);
        return k;
    }

    double mass_of(int64_t n) const {
        double mass = 0;
        for (int64_t j = 0; j < n; j++) mass += items_[j].mass;
        return mass;
    }

    // The place, in `order`, of the first of n candidates at which `enough(mass up to and with it)` holds, or the last
    // one; all before it are moved before it. Halves are told apart without being sorted.
    template <class F, class G = decltype(&better)>
    int64_t prefix(int64_t n, F enough, G order = better) {
        Candidate* c = items_;
        int64_t begin = 0, end = n;
        double before = 0;
        while (end - begin > kSortAtOnce) {
            const int64_t middle = begin + (end - begin) / 2;
            std::nth_element(c + begin, c + middle, c + end, order);
            double mass = before;
            for (int64_t j = begin; j < middle; j++) mass += c[j].mass;
            if (enough(mass)) {
                end = middle;
            } else {
                begin = middle;
                before = mass;
            }
        }
        std::sort(c + begin, c + end, order);
        for (int64_t j = begin; j < end; j++) {
            before += c[j].mass;
            if (enough(before)) return j;
        }
        return end - 1;
    }

  private:
    static int64_t groups(int64_t vocab) { return (vocab + kMaxGroup - 1) / kMaxGroup; }

    int64_t take(const float* x, float max, int64_t n) {
        for (int64_t j = 0; j < n; j++) {
            const int32_t id = indexes_[j];
            items_[j] = {std::exp(static_cast<double>(x[id]) - max), x[id], id};
        }
        return n;
    }

    const SamplerMath& math_;
    int64_t vocab_;
    int32_t* indexes_;
    Candidate* items_;
    float* maxima_;  // of groups
};

}  // namespace penstock
