// The sampler's passes give the same bits on every instruction set, and choices do not depend on threads or neighbours.
#include <cmath>

#include "memory.h"
#include "sampler.h"
#include "support.h"
#include "team.h"

using namespace penstock;
using penstock::test::Buffer;
using penstock::test::Random;

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

std::vector<float> logits(Random& random, int64_t n, float spread) {
    std::vector<float> x(n);
    for (float& v : x) v = random.below(20) == 0 ? -kInf : random.uniform(-spread, spread);
    x[random.below(n)] = spread;
    return x;
}

void passes(const SamplerMath& m, const std::vector<float>& x) {
    const auto n = static_cast<int64_t>(x.size());
    const SamplerMath& g = kSamplerMathGeneric;
    const RowScan scan = m.scan(x.data(), n);
    float max = -kInf;
    for (const float v : x) max = std::max(max, v);
    CHECK(scan.sane && scan.max == max);
    CHECK(x[m.find(x.data(), n, max)] == max);
    CHECK(m.count_greater(x.data(), n, 0.5f) == g.count_greater(x.data(), n, 0.5f));

    const int64_t blocks = (n + kSumBlock - 1) / kSumBlock;
    Buffer<double> sums(blocks), other(blocks);
    const double total = m.sum_exp(x.data(), n, max, sums.data());
    CHECK(total == g.sum_exp(x.data(), n, max, other.data()));
    CHECK(std::memcmp(sums.data(), other.data(), blocks * sizeof(double)) == 0);
    double want = 0;
    for (const float v : x) want += std::exp(static_cast<double>(v) - max);
    CHECK(std::abs(total - want) <= 1e-13 * want, "%.17g %.17g", total, want);

    Buffer<float> y(n);
    m.divide(x.data(), n, 0.7f, y.data());
    for (int64_t i = 0; i < n; i++) CHECK(y[i] == x[i] / 0.7f);

    Buffer<double> masses(kBins), others(kBins);
    CHECK(std::abs(m.bin_exp(x.data(), n, max, masses.data()) - want) <= 1e-13 * want);
    g.bin_exp(x.data(), n, max, others.data());
    CHECK(std::memcmp(masses.data(), others.data(), kBins * sizeof(double)) == 0);

    Buffer<int32_t> found(n);
    for (const float low : {-kInf, 0.0f, max}) {
        for (const float high : {0.5f, kInf}) {
            const int64_t count = m.between(x.data(), n, low, high, found.data());
            int64_t at = 0;
            for (int64_t i = 0; i < n; i++) {
                if (x[i] >= low && x[i] <= high) CHECK(at < count && found[at++] == i);
            }
            CHECK(at == count);
        }
    }
    Buffer<float> maxima((n + kMaxGroup - 1) / kMaxGroup);
    m.group_max(x.data(), n, maxima.data());
    for (int64_t i = 0; i < n; i++) CHECK(maxima[i / kMaxGroup] >= x[i]);
}

void bad_rows(const SamplerMath& m) {
    for (const float bad : {kInf, std::numeric_limits<float>::quiet_NaN()}) {
        for (const int64_t n : {1, 15, 16, 17, 64, 100}) {
            for (int64_t at = 0; at < n; at++) {
                std::vector<float> x(n, 0.5f);
                x[at] = bad;
                CHECK(!m.scan(x.data(), n).sane);
            }
        }
    }
}

// One batch of every kind of wish, for 1, 2 and 3 threads.
void threads() {
    constexpr int64_t kVocab = 5000, kRows = 3, kEntries = 24;
    Random random(7);
    std::vector<float> x;
    for (int r = 0; r < kRows; r++) {
        for (const float v : logits(random, kVocab, 4)) x.push_back(v);
    }
    std::vector<int32_t> row, target, top_k, num_logprobs, mask_row(kEntries, -1), starts(kEntries + 1, 0);
    std::vector<float> temperature, top_p, min_p, typical_p, ones(kEntries, 1.0f), zeros(kEntries, 0.0f);
    std::vector<uint64_t> seed;
    std::vector<int64_t> draw;
    for (int64_t i = 0; i < kEntries; i++) {
        row.push_back(static_cast<int32_t>(random.below(kRows)));
        target.push_back(i % 5 == 0 ? static_cast<int32_t>(random.below(kVocab)) : -1);
        top_k.push_back(i % 3 == 0 ? static_cast<int32_t>(random.below(3000)) : 0);
        num_logprobs.push_back(static_cast<int32_t>(i % 8) - 1);
        temperature.push_back(static_cast<float>(i % 4) * 0.5f);
        top_p.push_back(i % 2 == 0 ? 0.9f : 1.0f);
        min_p.push_back(i % 7 == 0 ? 0.05f : 0.0f);
        typical_p.push_back(i % 6 == 1 ? 0.8f : 1.0f);
        seed.push_back(random.next());
        draw.push_back(i);
    }
    const auto span = [](const auto& v) {
        return Span<typename std::decay_t<decltype(v)>::value_type>{v.data(), static_cast<int64_t>(v.size())};
    };
    SamplingBatch b;
    b.row = span(row), b.target = span(target), b.temperature = span(temperature), b.top_k = span(top_k);
    b.top_p = span(top_p), b.min_p = span(min_p), b.typical_p = span(typical_p), b.repetition = span(ones),
    b.presence = span(zeros);
    b.frequency = span(zeros), b.seed = span(seed), b.draw = span(draw), b.num_logprobs = span(num_logprobs);
    b.history_start = span(starts), b.bias_start = span(starts), b.mask_row = span(mask_row);

    std::vector<int32_t> first;
    for (const int count : {1, 2, 3}) {
        Team team(count);
        Buffer<int32_t> ids(kEntries), ranks(kEntries), top(kEntries * 6);
        Buffer<uint8_t> invalid(kEntries);
        Buffer<float> logprobs(kEntries), best(kEntries * 6);
        const SampleOutput out{ids.data(), invalid.data(), logprobs.data(), ranks.data(), top.data(), best.data(), 6};
        check_sampling(b, kRows, kVocab, out);
        const int64_t bytes = (sampler_scratch_bytes(kVocab) + 127) / 128 * 128;
        Region scratch(bytes * count, Pages::small, "test");
        team.run(scratch.data(), bytes,
                 [&](const Worker& w) { sample(kSamplerMathGeneric, b, x.data(), kVocab, kVocab, out, w); });
        std::vector<int32_t> all(ids.data(), ids.data() + kEntries);
        all.insert(all.end(), top.data(), top.data() + top.size());
        all.insert(all.end(), ranks.data(), ranks.data() + kEntries);
        if (count == 1) first = all;
        CHECK(all == first, "%d threads", count);
        for (int64_t i = 0; i < kEntries; i++) CHECK(invalid[i] == 0 && ids[i] >= 0 && ids[i] < kVocab);
    }
}

}  // namespace

int main() {
    Random random(3);
    for (const std::string& isa : possible_isas()) {
        const SamplerMath& m = sampler_math(isa);
        for (const int64_t n : {1, 7, 8, 16, 17, 63, 64, 65, 1023, 1024, 1025, 5000}) {
            for (const float spread : {0.0f, 1.0f, 30.0f, 800.0f}) passes(m, logits(random, n, spread));
        }
        bad_rows(m);
    }
    threads();
    std::printf("sampler: ok\n");
    return 0;
}
