// moe: choose experts for all rows; then, some rows at a time, bring the rows that chose an expert together and give
// each worker its share of (expert, rows, tiles of weights), as calls of `linear` on one worker.
#include "ops/moe.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "kernels/table.h"
#include "ops/moe_lora.h"

namespace penstock {
namespace {

// What one tile costs besides its rows, in rows: reading it from memory.
constexpr int64_t kTileCost = 8;
constexpr int64_t kPiece = 512;  // columns of a sum

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

void choose(const MoeArgs& a, const float* router, float* p, MoeChoice* out) {
    const int64_t n = a.experts;
    const float peak = *std::max_element(router, router + n);
    float mass = 0;
    for (int64_t i = 0; i < n; i++) mass += p[i] = std::exp(router[i] - peak);
    for (int64_t i = 0; i < n; i++) p[i] /= mass;
    float sum = 0;
    for (int64_t j = 0; j < a.top_k; j++) {
        int64_t best = -1;
        for (int64_t i = 0; i < n; i++) {
            if (p[i] >= 0 && (best < 0 || p[i] > p[best])) best = i;
        }
        // A row with NaN chooses the first ones: its weights are NaN whatever they are.
        const int64_t expert = best < 0 ? j : best;
        out[j] = {static_cast<int32_t>(expert), p[expert]};
        sum += p[expert];
        if (best >= 0) p[best] = -1;
    }
    std::sort(out, out + a.top_k, [](const MoeChoice& x, const MoeChoice& y) { return x.expert < y.expert; });
    if (!a.renormalise) return;
    for (int64_t j = 0; j < a.top_k; j++) out[j].weight /= sum;
}

struct Moe {
    const Kernels& kernels;
    const MoeArgs& args;
    const Worker& worker;
    MoeShared shared;
    MoePrivate own;
    ExpertLoras loras;

    Moe(const Kernels& k, const MoeArgs& a, const Worker& w)
        : kernels(k),
          args(a),
          worker(w),
          shared(a, a.rows, MoeCarver(a.shared)),
          own(a, a.rows, MoeCarver(w.scratch)),
          loras(k, args, worker, shared, own) {}

    // `order`: the chunk's rows from `first` on, or null for their own order.
    void sort(const MoeChoice* choices, int64_t rows, const int32_t* order, int64_t first) {
        const int64_t pairs = rows * args.top_k;
        std::fill(own.start, own.start + args.experts + 1, 0);
        for (int64_t i = 0; i < pairs; i++) own.start[choices[i].expert + 1]++;
        for (int64_t e = 0; e < args.experts; e++) own.start[e + 1] += own.start[e];
        for (int64_t at = 0; at < rows; at++) {
            const int64_t row = order == nullptr ? at : order[at] - first;
            for (int64_t i = row * args.top_k; i < (row + 1) * args.top_k; i++) {
                int64_t& next = own.start[choices[i].expert];
                own.row_of[next] = static_cast<int32_t>(row);
                own.place[i] = static_cast<int32_t>(next++);
            }
        }
        for (int64_t e = args.experts; e > 0; e--) own.start[e] = own.start[e - 1];
        own.start[0] = 0;
    }

    // f(expert, first sorted pair, pairs) for all jobs, in order.
    template <class F>
    void jobs(F f) const {
        for (int64_t e = 0; e < args.experts; e++) {
            const int64_t from = own.start[e], n = own.start[e + 1] - from, parts = ceil_div(n, kMoeJob);
            for (int64_t i = 0; i < parts; i++) f(e, from + n * i / parts, n * (i + 1) / parts - n * i / parts);
        }
    }

    // f(expert, first sorted pair, pairs, first tile, tiles) for this worker's share of the jobs of `tiles` tiles each.
    template <class F>
    void share(int64_t tiles, F f) const {
        const auto cost = [](int64_t n) { return kTileCost + n; };
        int64_t total = 0, before = 0, begin, end;
        jobs([&](int64_t, int64_t, int64_t n) { total += cost(n) * tiles; });
        worker.range(total, begin, end);
        jobs([&](int64_t e, int64_t from, int64_t n) {
            const auto tile = [&](int64_t at) { return std::clamp<int64_t>(ceil_div(at - before, cost(n)), 0, tiles); };
            const int64_t first = begin <= before ? 0 : tile(begin), last = end <= before ? 0 : tile(end);
            if (first < last) f(e, from, n, first, last - first);
            before += cost(n) * tiles;
        });
    }

    void run(const LinearArgs& a) const {
        const Worker alone{0, 1, own.scratch, static_cast<size_t>(own.scratch_bytes), [](void*) {}, nullptr};
        linear(kernels, a, alone);
    }

    LinearArgs call(Act act, Rows x, int64_t rows, int64_t k, int parts) const {
        LinearArgs a{};
        a.act = act;
        a.x = x;
        a.rows = rows;
        a.k = k;
        a.parts = parts;
        a.shared = own.prepared;
        return a;
    }

    void gate_up(Rows x, int64_t e, int64_t from, int64_t n, int64_t tile, int64_t tiles) const {
        Rows rows{x.data + own.row_of[from] * x.ld, x.ld};
        if (n > 1) {
            for (int64_t i = 0; i < n; i++) {
                std::memcpy(own.rows + i * args.hidden, x.data + own.row_of[from + i] * x.ld,
                            static_cast<size_t>(args.hidden) * sizeof(float));
            }
            rows = {own.rows, args.hidden};
        }
        const int64_t ld = shared.ld_inner, at = from * ld + tile * kTile;
        if (args.apart || loras.adds(ExpertPart::gate, e, from, n) || loras.adds(ExpertPart::up, e, from, n))
            return one_by_one(rows, e, from, n, tile, tiles);
        LinearArgs a = call(args.act, rows, n, args.hidden, 2);
        a.activation = args.activation;
        a.part[0] = {part_of(args.gate[e], tile, tiles), nullptr, shared.inner + at, ld};
        a.part[1] = {part_of(args.up[e], tile, tiles), nullptr, nullptr, 0};
        run(a);
    }

    void one_by_one(Rows rows, int64_t e, int64_t from, int64_t n, int64_t tile, int64_t tiles) const {
        const int64_t ld = shared.ld_inner, at = from * ld + tile * kTile;
        const int64_t width = std::min(tiles * kTile, args.width - tile * kTile);
        LinearArgs gate = call(args.act, rows, n, args.hidden, 1);
        gate.part[0] = {part_of(args.gate[e], tile, tiles), nullptr, shared.inner + at, ld};
        run(gate);
        loras.add(ExpertPart::gate, e, from, n, tile, tiles, shared.inner + at, ld);
        LinearArgs up = call(args.act_up, rows, n, args.hidden, 1);
        up.part[0] = {part_of(args.up[e], tile, tiles), nullptr, shared.upper + at, ld};
        run(up);
        loras.add(ExpertPart::up, e, from, n, tile, tiles, shared.upper + at, ld);
        float* y = shared.inner + at;
        kernels.finish_gated(args.activation, {n, width, y, shared.upper + at, ld, ld, nullptr, nullptr, y, ld});
    }

    void down(int64_t e, int64_t from, int64_t n, int64_t tile, int64_t tiles) const {
        const Rows rows{shared.inner + from * shared.ld_inner, shared.ld_inner};
        LinearArgs a = call(args.act_down, rows, n, args.width, 1);
        float* y = shared.outer + from * shared.ld_outer + tile * kTile;
        a.part[0] = {part_of(args.down[e], tile, tiles), nullptr, y, shared.ld_outer};
        run(a);
        loras.add(ExpertPart::down, e, from, n, tile, tiles, y, shared.ld_outer);
    }

    void sum(const MoeChoice* choices, int64_t rows, float* y) const {
        const int64_t pieces = ceil_div(args.hidden, kPiece);
        int64_t begin, end;
        worker.range(rows * pieces, begin, end);
        for (int64_t i = begin; i < end; i++) {
            const int64_t row = i / pieces, column = i % pieces * kPiece, n = std::min(kPiece, args.hidden - column);
            float* to = y + row * args.ldy + column;
            std::fill(to, to + n, 0.0f);
            for (int64_t j = row * args.top_k; j < (row + 1) * args.top_k; j++) {
                const float* from = shared.outer + own.place[j] * shared.ld_outer + column;
                const float weight = choices[j].weight;
                for (int64_t c = 0; c < n; c++) to[c] += weight * from[c];
            }
        }
    }

    void chunk(int64_t first, int64_t rows) {
        const MoeChoice* choices = shared.choices + first * args.top_k;
        const Rows x{args.x.data + first * args.x.ld, args.x.ld};
        sort(choices, rows, args.loras.order == nullptr ? nullptr : args.loras.order + first, first);
        loras.begin(first);
        if (loras.shrink({ExpertPart::gate, ExpertPart::up}, [&](int64_t i) { return x.data + own.row_of[i] * x.ld; }))
            worker.barrier();
        share(args.gate[0].tiles, [&](auto... job) { gate_up(x, job...); });
        worker.barrier();
        if (loras.shrink({ExpertPart::down}, [&](int64_t i) { return shared.inner + i * shared.ld_inner; }))
            worker.barrier();
        share(args.down[0].tiles, [&](auto... job) { down(job...); });
        worker.barrier();
        sum(choices, rows, args.y + first * args.ldy);
    }
};

}  // namespace

void moe(const Kernels& kernels, const MoeArgs& args, const Worker& worker) {
    if (args.rows == 0) return;
    Moe op(kernels, args, worker);
    int64_t begin, end;
    worker.range(args.rows, begin, end);
    for (int64_t row = begin; row < end; row++)
        choose(args, args.router.data + row * args.router.ld, op.own.p, op.shared.choices + row * args.top_k);
    worker.barrier();
    for (int64_t first = 0; first < args.rows; first += kMoeChunk)
        op.chunk(first, std::min(kMoeChunk, args.rows - first));
}

void measure_experts(MoeArgs& a) {
    a.prepared_bytes = a.scratch_bytes = 0;
    for (int64_t e = 0; e < a.experts; e++) {  // their inputs may be in an order, or not
        for (const auto& [m, act] :
             {std::pair{a.gate + e, a.act}, std::pair{a.up + e, a.act_up}, std::pair{a.down + e, a.act_down}}) {
            a.prepared_bytes = std::max(a.prepared_bytes, linear_shared_bytes(*m, act, 1));
            a.scratch_bytes = std::max(a.scratch_bytes, linear_scratch_bytes(*m, act));
        }
    }
}

int64_t moe_shared_bytes(const MoeArgs& args, int64_t rows) { return MoeShared(args, rows, MoeCarver(nullptr)).bytes; }
int64_t moe_scratch_bytes(const MoeArgs& args, int64_t rows) {
    return MoePrivate(args, rows, MoeCarver(nullptr)).bytes;
}

}  // namespace penstock
