// The lora op against double precision; rows without an adapter keep their bits, the others have theirs in any company.
#include <algorithm>
#include <numeric>

#include "support.h"

using namespace penstock;
using namespace penstock::test;

namespace {

struct Adapter {
    Weights a, b;
    LoraFactors factors;

    Adapter(int64_t n, int64_t k, int64_t r, uint64_t seed)
        : a(random_weights(Format::f32, r, k, seed)),
          b(random_weights(Format::f32, n, r, seed + 1)),
          factors{a.matrix, b.matrix, 0.5f * static_cast<float>(seed)} {}
};

// `slots` says which adapter each row has, -1 for none; result in a buffer of its own, or over y.
Buffer<float> run(const Kernels& kernels, const std::vector<Adapter>& adapters, const std::vector<int>& slots,
                  const Buffer<float>& x, const Buffer<float>& y, int64_t n, int64_t k, bool in_place, int workers) {
    const int64_t rows = static_cast<int64_t>(slots.size()), ldx = k + 3, ldy = n + 1;
    int64_t rank = 1;
    std::vector<int32_t> order;
    std::vector<LoraPanel> panels;
    std::vector<const LoraFactors*> factors;
    for (int slot = 0; slot < static_cast<int>(adapters.size()); slot++) {
        const auto begin = static_cast<int64_t>(order.size());
        for (int64_t i = 0; i < rows; i++)
            if (slots[i] == slot) order.push_back(static_cast<int32_t>(i));
        const auto end = static_cast<int64_t>(order.size());
        for (int64_t at = begin; at < end; at += kernels.panel_rows) {
            panels.push_back({slot, at, std::min(end, at + kernels.panel_rows)});
            // the last adapter says nothing of this weight
            factors.push_back(slot + 1 == static_cast<int>(adapters.size()) ? nullptr : &adapters[slot].factors);
        }
        rank = std::max(rank, adapters[slot].factors.a.n);
    }
    Buffer<float> z(rows * ldy, -1);
    if (in_place) std::copy(y.data(), y.data() + y.size(), z.data());
    Buffer<std::byte> shared(lora_shared_bytes(rows, rank));
    LoraArgs args{{order.data(), panels.data(), static_cast<int64_t>(panels.size())},
                  factors.data(),
                  rows,
                  n,
                  {x.data(), ldx},
                  {in_place ? z.data() : y.data(), ldy},
                  z.data(),
                  ldy,
                  k,
                  rank,
                  shared.data()};
    on_team(workers, lora_scratch_bytes(k, rank), [&](const Worker& w) { lora(kernels, args, w); });
    return z;
}

void check(const Kernels& kernels, int64_t n, int64_t k, const std::vector<int64_t>& ranks, int64_t rows) {
    std::vector<Adapter> adapters;
    for (size_t i = 0; i < ranks.size(); i++) adapters.emplace_back(n, k, ranks[i], 2 * i + 1);
    const int count = static_cast<int>(adapters.size());
    const Buffer<float> x = random_floats(rows * (k + 3), 7), y = random_floats(rows * (n + 1), 8);
    std::vector<int> slots(rows);
    for (int64_t i = 0; i < rows; i++) slots[i] = static_cast<int>((i * 7 + 1) % (count + 1)) - 1;
    const auto whole = run(kernels, adapters, slots, x, y, n, k, true, 1);
    for (const int workers : {1, 2, 5}) {
        for (const bool in_place : {true, false}) {
            const auto z = run(kernels, adapters, slots, x, y, n, k, in_place, workers);
            for (int64_t i = 0; i < rows; i++) {
                CHECK(same_bits(z.data() + i * (n + 1), whole.data() + i * (n + 1), n), "%s row %ld on %d workers",
                      kernels.name, long(i), workers);
            }
        }
    }
    for (int64_t i = 0; i < rows; i++) {
        const float* got = whole.data() + i * (n + 1);
        if (slots[i] < 0 || slots[i] + 1 == count) {
            CHECK(same_bits(got, y.data() + i * (n + 1), n), "a row without an adapter changed");
            continue;
        }
        const Adapter& adapter = adapters[slots[i]];
        std::vector<double> inner(adapter.factors.a.n);
        for (size_t j = 0; j < inner.size(); j++)
            for (int64_t c = 0; c < k; c++) inner[j] += adapter.a.values[j * k + c] * double(x[i * (k + 3) + c]);
        for (int64_t c = 0; c < n; c++) {
            double want = 0;
            for (size_t j = 0; j < inner.size(); j++) want += adapter.b.values[c * inner.size() + j] * inner[j];
            want = y[i * (n + 1) + c] + adapter.factors.scale * want;
            CHECK(std::fabs(got[c] - want) < 1e-4 * (1 + std::fabs(want)), "%s: %g, want %g", kernels.name, got[c],
                  want);
        }
        Buffer<float> mine_x(k + 3), mine_y(n + 1);
        std::copy(x.data() + i * (k + 3), x.data() + (i + 1) * (k + 3), mine_x.data());
        std::copy(y.data() + i * (n + 1), y.data() + (i + 1) * (n + 1), mine_y.data());
        const auto alone = run(kernels, adapters, {slots[i]}, mine_x, mine_y, n, k, false, 3);
        CHECK(same_bits(alone.data(), got, n), "%s row %ld is not itself alone", kernels.name, long(i));
    }
}

}  // namespace

int main() {
    for_all_isas([](const Kernels& kernels) {
        check(kernels, 40, 33, {4, 17, 8}, 13);
        check(kernels, 16, 64, {16, 1}, 1);
        check(kernels, 5, 7, {1, 3, 2}, 40);
        check(kernels, 129, 96, {64, 2, 16, 5}, 70);
    });
    return 0;
}
