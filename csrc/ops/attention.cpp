// attention: the work is a list of tasks, each of some query tokens of a sequence and of one kv head or all; a task is
// a list of pieces, a partition of the cache for one kv head. Few query tokens take all kv heads partition by
// partition, in the order of memory, since reading it is their cost; many take one kv head, whose partition stays in a
// cache. Workers take equal stretches of the list. Where a task is cut between workers, its partitions' results go to
// shared memory and are joined in the order in which an uncut task joins its own.
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "kernels/table.h"
#include "ops/ops.h"

namespace penstock {
namespace {

constexpr int64_t kTaskRows = 64;  // query rows of a task, unless one token has more heads to a kv head
constexpr int64_t kFewRows = 8;    // query rows of a kv head, for tokens to count as few
constexpr int64_t kGroups = kPartition / 16, kSpanGroups = kSpanRows / 16;
constexpr int64_t kShrinks = kSpanRows / kStepRows * 16;  // of a panel
constexpr float kLog2e = 1.44269504f;

int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }
int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t task_rows(int64_t group) { return std::max(group, kTaskRows / group * group); }

struct Task {
    int64_t seq, head, heads;      // first kv head, how many
    int64_t token, tokens;         // first query token (in the batch), how many
    int64_t row;                   // cache row of the first
    int64_t first, last;           // partitions seen: first <= p < last
    int64_t seen_begin, seen_end;  // cache rows seen by any of its tokens
    int64_t start;                 // cost of all tasks before
};

// What a piece of this task's partition p costs, in groups of cache rows times query rows.
int64_t cost(const Task& t, int64_t p) {
    const int64_t begin = std::max(t.seen_begin, p * kPartition) / 16;
    const int64_t end = ceil_div(std::min(t.seen_end, (p + 1) * kPartition), 16);
    return (end - begin + 4) * t.tokens;
}
int64_t cost(const Task& t) {
    return (ceil_div(t.seen_end, 16) - t.seen_begin / 16 + 4 * (t.last - t.first)) * t.tokens * t.heads;
}

// Sizes of an attention's working memory.
struct Sizes {
    int64_t group, block_tokens, few, width;  // query heads of a kv head; tokens of a task; few tokens; padded head_dim
    int64_t rows, at_once;                    // query rows of a task, and of those worked on at once, at most
    int64_t panels;

    Sizes(int64_t heads, int64_t kv_heads, int64_t head_dim)
        : group(heads / kv_heads),
          block_tokens(task_rows(group) / group),
          few(std::max<int64_t>(1, kFewRows / group)),
          width(padded(head_dim)),
          rows(std::max(task_rows(group), few * heads)),
          at_once(std::max<int64_t>(kPanelsBeside * kRowsLimit, few * heads)),
          panels(at_once) {}
    int64_t floats() const {
        return 2 * padded(rows * width) + padded(at_once * width) + 2 * padded(at_once * kSpanRows) +
               padded(at_once * 16) + 2 * padded(rows) + 4 * padded(at_once) + panels * kShrinks + width;
    }
    int64_t bytes() const { return 4 * (floats() + 2 * padded(at_once)) + panels * sizeof(AttendPanel); }
    int64_t slot_floats() const { return rows * (width + 2); }
};

struct Attention {
    const Kernels& kernels;
    const AttentionArgs& a;
    const Worker& worker;
    Sizes size;
    int64_t total = 0, longest = 0;
    // private scratch
    float *q, *sums, *part, *scores, *weights, *lane_masses, *distance, *slopes, *line;
    float *peaks, *masses, *part_peaks, *part_masses;
    float (*shrink)[16];
    int32_t *from, *to;
    AttendPanel* panels;

    Attention(const Kernels& k, const AttentionArgs& args, const Worker& w)
        : kernels(k), a(args), worker(w), size(args.heads, args.kv_heads, args.head_dim) {
        float* at = reinterpret_cast<float*>(w.scratch);
        const auto take = [&](int64_t n) { return std::exchange(at, at + padded(n)); };
        q = take(size.rows * size.width);
        sums = take(size.rows * size.width);
        part = take(size.at_once * size.width);
        scores = take(size.at_once * kSpanRows);
        weights = take(size.at_once * kSpanRows);
        lane_masses = take(size.at_once * 16);
        peaks = take(size.rows);
        masses = take(size.rows);
        part_peaks = take(size.at_once);
        part_masses = take(size.at_once);
        distance = take(size.at_once);
        slopes = take(size.at_once);
        shrink = reinterpret_cast<float (*)[16]>(take(size.panels * kShrinks));
        line = take(size.width);
        from = reinterpret_cast<int32_t*>(take(size.at_once));
        to = reinterpret_cast<int32_t*>(take(size.at_once));
        panels = reinterpret_cast<AttendPanel*>(at);
    }

    // The cache rows that the query at cache row `row` of sequence s sees.
    int64_t seen_end(int64_t s, int64_t row) const {
        const int64_t boundary = a.bidirectional != nullptr ? a.bidirectional[s] : 0;
        return std::min<int64_t>(std::max(row + 1, row < boundary ? boundary : 0), a.context_lens[s]);
    }
    int64_t seen_begin(int64_t row) const { return a.window > 0 ? std::max<int64_t>(0, row + 1 - a.window) : 0; }

    // Calls f(task) for all tasks, in one order for all workers.
    template <class Function>
    void tasks(Function f) const {
        int64_t before = 0;
        for (int64_t s = 0; s < a.seqs; s++) {
            const int64_t begin = a.query_start[s], end = a.query_start[s + 1];
            const bool few = end - begin <= size.few;
            Task t;
            t.seq = s;
            t.heads = few ? a.kv_heads : 1;
            for (t.head = 0; t.head < a.kv_heads; t.head += t.heads) {
                for (t.token = begin; t.token < end; t.token += t.tokens) {
                    t.tokens = few ? end - begin : std::min(size.block_tokens, end - t.token);
                    t.row = a.context_lens[s] - (end - t.token);
                    t.seen_begin = seen_begin(t.row);
                    t.seen_end = std::max(seen_end(s, t.row), seen_end(s, t.row + t.tokens - 1));
                    t.first = t.seen_begin / kPartition;
                    t.last = ceil_div(t.seen_end, kPartition);
                    t.start = before;
                    before += cost(t);
                    f(std::as_const(t));
                }
            }
        }
    }

    // Which worker a piece of work belongs to: the one in whose stretch its middle lies.
    int owner(int64_t before, int64_t n) const {
        return static_cast<int>((2 * before + n) * worker.count / (2 * total));
    }
    int first_owner(const Task& t) const { return owner(t.start, cost(t, t.first)); }
    int last_owner(const Task& t) const {
        const int64_t tail = cost(t, t.last - 1);
        return owner(t.start + cost(t) - tail, tail);
    }
    // This worker's kv heads of partition p, of which `before` is the cost of all pieces before: begin <= head < end.
    void heads(const Task& t, int64_t p, int64_t before, int64_t& begin, int64_t& end) const {
        const int64_t each = cost(t, p);
        begin = 0, end = t.heads;
        while (begin < end && owner(before + begin * each, each) < worker.id) begin++;
        while (begin < end && owner(before + (end - 1) * each, each) > worker.id) end--;
    }

    float* slot(int64_t cut, const Task& t, int64_t p) const {
        return reinterpret_cast<float*>(a.shared) + (cut * longest + p - t.first) * size.slot_floats();
    }

    void run() {
        tasks([&](const Task& t) {
            total += cost(t);
            longest = std::max(longest, t.last - t.first);
        });
        int64_t cuts = 0;
        tasks([&](const Task& t) {
            const int first = first_owner(t), last = last_owner(t);
            const bool cut = first != last && t.last - t.first > 1;
            if (first <= worker.id && worker.id <= last) {
                if (cut) {
                    partly(t, cuts);
                } else {
                    int64_t begin, end;
                    heads(t, t.first, t.start, begin, end);
                    whole(t, first == last ? 0 : begin, first == last ? t.heads : end);
                }
            }
            cuts += cut;
        });
        if (cuts == 0) return;
        worker.barrier();
        cuts = 0;
        int64_t turn = 0;
        tasks([&](const Task& t) {
            if (t.last - t.first == 1 || first_owner(t) == last_owner(t)) return;
            for (int64_t head = 0; head < t.heads; head++)
                if (turn++ % worker.count == worker.id) join(t, head, cuts);
            cuts++;
        });
    }

    // A task's rows are numbered [head][token][query head of the kv head]; those of one head are cut into panels.
    int64_t head_rows(const Task& t) const { return t.tokens * size.group; }
    int64_t head_panels(const Task& t) const {
        const int64_t n = head_rows(t);
        const int type = static_cast<int>(a.cache.type);
        return n <= kernels.attend_rows[type] ? 1 : ceil_div(n, int64_t{kernels.attend_rows_many[type]});
    }
    int64_t panel_begin(const Task& t, int64_t p) const { return head_rows(t) * p / head_panels(t); }

    void fill_q(const Task& t, int64_t first, int64_t last) const {
        const KVType type = a.cache.type;
        const Act act = type == KVType::i8 ? Act::i8 : type == KVType::bf16 ? Act::bf16 : Act::f32;
        const float base = a.softcap == 0 ? kLog2e : 1;
        const int64_t n = head_rows(t);
        for (int64_t head = first; head < last; head++) {
            for (int64_t p = 0; p < head_panels(t); p++) {
                const int64_t begin = panel_begin(t, p), count = panel_begin(t, p + 1) - begin;
                for (int64_t r = begin; r < begin + count; r++) {
                    const int64_t token = t.token + r / size.group;
                    float scale = a.scale * base;
                    if (a.log_n > 0 && a.positions[token] >= a.log_n)
                        scale *= static_cast<float>(std::log(a.positions[token] + 1.0) /
                                                    std::log(static_cast<double>(a.log_n)));
                    const int64_t query_head = (t.head + head) * size.group + r % size.group;
                    const float* x = a.q.data + token * a.q.ld + query_head * a.head_dim;
                    for (int64_t d = 0; d < a.head_dim; d++) line[d] = x[d] * scale;
                    uint32_t* panel = reinterpret_cast<uint32_t*>(q) + (head * n + begin) * size.width;
                    const int rows = static_cast<int>(count), row = static_cast<int>(r - begin);
                    if (kernels.attend_unit[static_cast<int>(type)])
                        kernels.unit.fill_panel(line, a.head_dim, panel, rows, row);
                    else
                        kernels.fill_panel(act, line, a.head_dim, panel, rows, row);
                }
            }
        }
    }

    // Where partition p's groups lie: first line of keys, and the tile of values, of the first kv head.
    int64_t groups(const Task& t, int64_t p, const std::byte** keys, const std::byte** values) const {
        const int64_t base = p * kPartition, block_size = a.cache.block_size, tile_rows = kv_tile_rows(block_size);
        const int64_t group_bytes = a.cache.head_bytes * 16 / block_size;
        const int64_t known = std::min(kGroups + kSpanGroups, ceil_div(t.seen_end - base, 16));
        const int32_t* table = a.block_tables + t.seq * a.table_ld;
        for (int64_t g = std::max<int64_t>(0, (t.seen_begin - base) / kSpanRows * kSpanGroups); g < known; g++) {
            const int64_t row = base + g * 16, block = table[row / block_size] * a.cache.block_bytes;
            const int64_t tile = block + row % block_size / tile_rows * (tile_rows / 16) * group_bytes;
            keys[g] = a.cache.keys + tile + row % tile_rows / 16 * kv_line_bytes(a.cache.type);
            values[g] = a.cache.values + tile;
        }
        return known;
    }

    // Kv heads first <= head < last of a task over partition p: done(row, y [width], peak, mass) for all their rows.
    template <class Function>
    void partition(const Task& t, int64_t p, int64_t first, int64_t last, Function done) const {
        const std::byte *keys[kGroups + kSpanGroups] = {}, *values[kGroups + kSpanGroups] = {};
        const int64_t base = p * kPartition, n = head_rows(t), each = head_panels(t);
        AttendRun run;
        run.head_dim = a.head_dim;
        run.known = static_cast<int>(groups(t, p, keys, values));
        run.groups = static_cast<int>(std::min<int64_t>(kGroups, run.known));
        run.keys = keys;
        run.values = values;
        run.tile_rows = static_cast<int>(kv_tile_rows(a.cache.block_size));
        run.block_groups = static_cast<int>(a.cache.block_size / 16);
        run.softcap = a.softcap;
        const bool together = t.tokens <= size.few;  // else some panels after others
        const int64_t beside = kernels.attend_beside[static_cast<int>(a.cache.type)];
        // One query head has too little to compute for streams that take turns (measured: 22 GB/s, the others 24 to
        // 26).
        const bool turns = run.tile_rows % kStepRows == 0 && size.group > 1;
        run.order = !together ? AttendOrder::beside : turns ? AttendOrder::heads : AttendOrder::rows;
        for (int64_t turn = 0; turn < (together ? 1 : ceil_div(each, beside)); turn++) {
            const int64_t begin = together ? first * each : turn * beside;
            const int64_t end = together ? last * each : std::min(each, begin + beside);
            int64_t at = 0;
            for (int64_t i = begin; i < end; i++) {
                AttendPanel& b = panels[i - begin];
                const int64_t head = i / each, row0 = panel_begin(t, i % each);
                b.rows = static_cast<int>(panel_begin(t, i % each + 1) - row0);
                // One head's scores are done with when the next one's begin, but where all heads go row by row.
                set_panel(b, t, head, row0, base, at, run.order == AttendOrder::heads ? row0 : at);
                b.shrink = shrink + (i - begin) * (kShrinks / 16);
                b.q = reinterpret_cast<const uint32_t*>(q) + (head * n + row0) * size.width;
                at += b.rows;
            }
            run.ahead = turn == 0;
            run.halves = kernels.halves;
            run.group_bytes = a.cache.head_bytes * 16 / a.cache.block_size;
            run.panels = panels;
            run.count = static_cast<int>(end - begin);
            run.head_panels = static_cast<int>(each);
            kernels.attend[static_cast<int>(a.cache.type)](run);
            const int64_t row0 = begin / each * n + panel_begin(t, begin % each);
            for (int64_t i = 0; i < at; i++) done(row0 + i, part + i * size.width, part_peaks[i], part_masses[i]);
        }
    }

    // Rows row0 ... of a kv head, at place `at` of the working memory.
    void set_panel(AttendPanel& b, const Task& t, int64_t head, int64_t row0, int64_t base, int64_t at,
                   int64_t scores_at) const {
        for (int64_t i = 0; i < b.rows; i++) {
            const int64_t row = t.row + (row0 + i) / size.group;
            from[at + i] = static_cast<int32_t>(std::clamp<int64_t>(seen_begin(row) - base, 0, kPartition));
            to[at + i] = static_cast<int32_t>(std::clamp<int64_t>(seen_end(t.seq, row) - base, 0, kPartition));
            distance[at + i] = static_cast<float>(base - row);
            if (a.alibi != nullptr)
                slopes[at + i] = a.alibi[(t.head + head) * size.group + (row0 + i) % size.group] * kLog2e;
        }
        b.offset = (t.head + head) * a.cache.head_bytes;
        b.begin = from + at;
        b.end = to + at;
        b.slopes = a.alibi != nullptr ? slopes + at : nullptr;
        b.distance = distance + at;
        b.scores = scores + scores_at * kSpanRows;
        b.weights = reinterpret_cast<uint32_t*>(weights) + scores_at * kSpanRows;
        b.masses = lane_masses + at * 16;
        b.y = part + at * size.width;
        b.ldy = size.width;
        b.peak = part_peaks + at;
        b.mass = part_masses + at;
    }

    void start(int64_t begin, int64_t end) const {
        std::fill(peaks + begin, peaks + end, -std::numeric_limits<float>::infinity());
        std::fill(masses + begin, masses + end, 0.0f);
    }
    void add(int64_t r, const float* y, float peak, float mass) const {
        kernels.merge(sums + r * size.width, peaks + r, masses + r, y, peak, mass, a.head_dim);
    }
    void finish(const Task& t, int64_t begin, int64_t end) const {
        for (int64_t r = begin; r < end; r++) {
            const int64_t head = t.head + r / head_rows(t), i = r % head_rows(t);
            float* y = a.y + (t.token + i / size.group) * a.ldy + (head * size.group + i % size.group) * a.head_dim;
            kernels.divide(sums + r * size.width, masses[r], y, a.head_dim);
        }
    }

    // All partitions of some of a task's kv heads.
    void whole(const Task& t, int64_t first, int64_t last) const {
        if (first >= last) return;
        fill_q(t, first, last);
        start(first * head_rows(t), last * head_rows(t));
        for (int64_t p = t.first; p < t.last; p++)
            partition(t, p, first, last,
                      [&](int64_t r, const float* y, float peak, float mass) { add(r, y, peak, mass); });
        finish(t, first * head_rows(t), last * head_rows(t));
    }

    // This worker's pieces of a cut task, to shared memory.
    void partly(const Task& t, int64_t cut) const {
        fill_q(t, 0, t.heads);
        int64_t before = t.start;
        for (int64_t p = t.first; p < t.last; p++) {
            int64_t first, last;
            heads(t, p, before, first, last);
            before += cost(t, p) * t.heads;
            if (first >= last) continue;
            float* to = slot(cut, t, p);
            partition(t, p, first, last, [&](int64_t r, const float* y, float peak, float mass) {
                std::copy(y, y + a.head_dim, to + r * (size.width + 2));
                to[r * (size.width + 2) + size.width] = peak;
                to[r * (size.width + 2) + size.width + 1] = mass;
            });
        }
    }

    void join(const Task& t, int64_t head, int64_t cut) const {
        const int64_t begin = head * head_rows(t), end = begin + head_rows(t);
        start(begin, end);
        for (int64_t p = t.first; p < t.last; p++) {
            const float* from = slot(cut, t, p) + begin * (size.width + 2);
            for (int64_t r = begin; r < end; r++, from += size.width + 2)
                add(r, from, from[size.width], from[size.width + 1]);
        }
        finish(t, begin, end);
    }
};

}  // namespace

void attention(const Kernels& kernels, const AttentionArgs& args, const Worker& worker) {
    if (args.seqs > 0) Attention(kernels, args, worker).run();
}

int64_t attention_scratch_bytes(int64_t heads, int64_t kv_heads, int64_t head_dim) {
    return Sizes(heads, kv_heads, head_dim).bytes();
}

int64_t attention_shared_bytes(int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t max_context, int workers) {
    const int64_t partitions = ceil_div(max_context, kPartition);
    if (workers < 2 || partitions < 2) return 0;
    return 4 * (workers - 1) * partitions * Sizes(heads, kv_heads, head_dim).slot_floats();
}

}  // namespace penstock
