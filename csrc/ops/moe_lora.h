// What adapters add to the linears of experts, for one chunk of rows of `moe`: scale * B (A x) behind gate, up and down
// of a row whose adapter has factors for that expert. A x of all pairs is shared out between the workers; B is applied
// to the tiles of outputs that a worker has just made.
#pragma once
#include <initializer_list>

#include "ops/moe_memory.h"

namespace penstock {

class ExpertLoras {
  public:
    ExpertLoras(const Kernels& kernels, const MoeArgs& args, const Worker& worker, const MoeShared& shared,
                const MoePrivate& own)
        : kernels_(kernels), args_(args), worker_(worker), shared_(shared), own_(own) {}

    // The pairs have been sorted; the chunk's rows begin at this one.
    void begin(int64_t first_row) { first_row_ = first_row; }
    // Whether any row of the step has an adapter.
    bool any() const { return args_.loras.adapter_of != nullptr; }
    // Whether anything is added to `part` of these sorted pairs of an expert.
    bool adds(ExpertPart part, int64_t expert, int64_t from, int64_t pairs) const;
    // This worker's share of A x for gate and up, or for down; x of the sorted pair i is source(i). False where the
    // chunk has none, and no worker anything to wait for.
    template <class Source>
    bool shrink(std::initializer_list<ExpertPart> parts, Source source) const;
    // y [pairs, 16 * tiles] += scale * B (A x), for these tiles of a part's outputs.
    void add(ExpertPart part, int64_t expert, int64_t from, int64_t pairs, int64_t tile, int64_t tiles, float* y,
             int64_t ldy) const;

  private:
    const LoraFactors* factors(ExpertPart part, int64_t expert, int64_t pair) const {
        const int32_t adapter = args_.loras.adapter_of[first_row_ + own_.row_of[pair]];
        if (adapter < 0) return nullptr;
        return args_.loras.tables[adapter].find(args_.loras.target(part, expert, args_.experts));
    }
    float* low(ExpertPart part, int64_t pair) const {
        return shared_.low + (2 * pair + (part == ExpertPart::up ? 1 : 0)) * shared_.ld_low;
    }
    // f(factors, first pair, pairs) for panels of pairs that share them.
    template <class F>
    void panels(ExpertPart part, int64_t expert, int64_t from, int64_t pairs, F f) const {
        for (int64_t i = from, end; i < from + pairs; i = end) {
            const LoraFactors* found = factors(part, expert, i);
            const int64_t most = std::min(from + pairs, i + kernels_.panel_rows);
            for (end = i + 1; end < most && factors(part, expert, end) == found;) end++;
            if (found != nullptr) f(*found, i, static_cast<int>(end - i));
        }
    }

    const Kernels& kernels_;
    const MoeArgs& args_;
    const Worker& worker_;
    const MoeShared& shared_;
    const MoePrivate& own_;
    int64_t first_row_ = 0;
};

inline bool ExpertLoras::adds(ExpertPart part, int64_t expert, int64_t from, int64_t pairs) const {
    for (int64_t i = from; any() && i < from + pairs; i++)
        if (factors(part, expert, i) != nullptr) return true;
    return false;
}

template <class Source>
bool ExpertLoras::shrink(std::initializer_list<ExpertPart> parts, Source source) const {
    const auto each = [&](auto f) {
        for (const ExpertPart part : parts) {
            for (int64_t e = 0; e < args_.experts; e++) {
                panels(part, e, own_.start[e], own_.start[e + 1] - own_.start[e],
                       [&](const LoraFactors& found, int64_t first, int pairs) { f(part, found.a, first, pairs); });
            }
        }
    };
    if (!any()) return false;
    int64_t total = 0, before = 0, begin, end;
    each([&](ExpertPart, const Matrix& a, int64_t, int) { total += a.tiles; });
    worker_.range(total, begin, end);
    each([&](ExpertPart part, const Matrix& a, int64_t first, int pairs) {
        const int64_t from = std::max<int64_t>(begin - before, 0), to = std::min(end - before, a.tiles);
        before += a.tiles;
        if (from >= to) return;
        low_rank_product(
            kernels_, a, pairs, from, to, own_.panel, [&](int i) { return source(first + i); },
            [&](int i, int64_t column, const float* y, int64_t width) {
                std::copy(y, y + width, low(part, first + i) + column);
            });
    });
    return total > 0;
}

inline void ExpertLoras::add(ExpertPart part, int64_t expert, int64_t from, int64_t pairs, int64_t tile, int64_t tiles,
                             float* y, int64_t ldy) const {
    if (!any()) return;
    panels(part, expert, from, pairs, [&](const LoraFactors& found, int64_t first, int count) {
        low_rank_product(
            kernels_, found.b, count, tile, tile + tiles, own_.panel, [&](int i) { return low(part, first + i); },
            [&](int i, int64_t column, const float* more, int64_t width) {
                float* to = y + (first - from + i) * ldy + column - tile * kTile;
                for (int64_t j = 0; j < width; j++) to[j] += found.scale * more[j];
            });
    });
}

}  // namespace penstock
