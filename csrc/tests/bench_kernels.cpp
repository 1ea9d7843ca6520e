// How fast linear and attention are, beside what the machine allows, probed in the same run.
//   bench_kernels            a glance (small, under two seconds)
//   bench_kernels full [n]   matrices larger than the caches, on n threads (default: all)
// Best of many short calls, the kinds interleaved, since other processes take their share of a machine.
#if defined(__x86_64__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12 warns of its own intrinsics
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#endif
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>

#include "support.h"

using namespace penstock;
using namespace penstock::test;

namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Threads that stay, and a barrier that spins: what the executor's team is, in a few lines.
class SpinTeam {
  public:
    explicit SpinTeam(int n) : count_(n) {
        for (int i = 0; i < n; i++) scratch_.emplace_back(kScratch);
        for (int i = 1; i < n; i++) threads_.emplace_back([this, i] { loop(i); });
    }
    ~SpinTeam() {
        job_ = nullptr;
        meet(this);
        for (std::thread& t : threads_) t.join();
    }
    double run(const std::function<void(const Worker&)>& job) {
        job_ = &job;
        const double start = now();
        meet(this);
        job(worker(0));
        meet(this);
        return now() - start;
    }
    int count() const { return count_; }

  private:
    void loop(int id) {
        for (;;) {
            meet(this);
            if (job_ == nullptr) return;
            (*job_)(worker(id));
            meet(this);
        }
    }
    Worker worker(int id) { return {id, count_, scratch_[static_cast<size_t>(id)].data(), kScratch, meet, this}; }
    static void meet(void* self) {
        SpinTeam& t = *static_cast<SpinTeam*>(self);
        const int round = t.round_.load();
        if (t.arrived_.fetch_add(1) + 1 == t.count_) {
            t.arrived_.store(0);
            t.round_.store(round + 1);
            return;
        }
        for (int spins = 0; t.round_.load() == round; spins++)
            if (spins > 20000) std::this_thread::yield();
    }
    static constexpr int64_t kScratch = 8 << 20;
    int count_;
    const std::function<void(const Worker&)>* job_ = nullptr;
    std::vector<Buffer<std::byte>> scratch_;
    std::vector<std::thread> threads_;
    std::atomic<int> round_{0}, arrived_{0};
};

// Memory with huge pages where the system gives them.
struct Pages {
    std::byte* data;
    int64_t size;
    explicit Pages(int64_t n) : size((n + (2 << 20) - 1) >> 21 << 21) {
        data = static_cast<std::byte*>(
            mmap(nullptr, static_cast<size_t>(size), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        madvise(data, static_cast<size_t>(size), MADV_HUGEPAGE);
        std::memset(data, 0, static_cast<size_t>(size));
    }
    ~Pages() { munmap(data, static_cast<size_t>(size)); }
};

#if defined(__x86_64__)
__attribute__((target("avx512f"))) int64_t read_all_512(const std::byte* p, int64_t n) {
    __m512i s[4] = {};
    for (int64_t i = 0; i + 256 <= n; i += 256)
        for (int j = 0; j < 4; j++) s[j] = _mm512_add_epi64(s[j], _mm512_loadu_si512(p + i + 64 * j));
    return _mm512_reduce_add_epi64(_mm512_add_epi64(_mm512_add_epi64(s[0], s[1]), _mm512_add_epi64(s[2], s[3])));
}
__attribute__((target("avx512f"))) float fma_512(int64_t n) {
    __m512 s[12], a = _mm512_set1_ps(1e-9f);
    for (auto& x : s) x = a;
    for (int64_t i = 0; i < n; i++)
#pragma GCC unroll 12
        for (auto& x : s) x = _mm512_fmadd_ps(x, a, a);
    float r = 0;
    for (auto& x : s) r += _mm512_reduce_add_ps(x);
    return r;
}
__attribute__((target("avx512f,avx512bf16"))) float dot_512(int64_t n) {
    __m512 s[12];
    const __m512bh a = reinterpret_cast<__m512bh>(_mm512_set1_epi32(0x30003000));
    for (auto& x : s) x = _mm512_setzero_ps();
    for (int64_t i = 0; i < n; i++)
#pragma GCC unroll 12
        for (auto& x : s) x = _mm512_dpbf16_ps(x, a, a);
    float r = 0;
    for (auto& x : s) r += _mm512_reduce_add_ps(x);
    return r;
}
#endif

struct Limits {
    double read = 0, fma = 0, dot = 0;  // GB/s, GFLOP/s
};
volatile double sink;

void probe(SpinTeam& team, const Pages& pages, Limits& best) {
#if defined(__x86_64__)
    if (!__builtin_cpu_supports("avx512bf16")) return;
    for (int64_t piece = 0; piece < 8; piece++) {
        const double read = team.run([&](const Worker& w) {
            int64_t begin, end;
            w.range(pages.size / 8 / 4096, begin, end);
            sink = static_cast<double>(
                read_all_512(pages.data + pages.size / 8 * piece + begin * 4096, (end - begin) * 4096));
        });
        best.read = std::max(best.read, static_cast<double>(pages.size / 8) / read * 1e-9);
    }
    constexpr int64_t kTurns = 1 << 18;
    const double fma = team.run([&](const Worker&) { sink = fma_512(kTurns); });
    const double dot = team.run([&](const Worker&) { sink = dot_512(kTurns); });
    best.fma = std::max(best.fma, 32e-9 * 12 * kTurns * team.count() / fma);
    best.dot = std::max(best.dot, 64e-9 * 12 * kTurns * team.count() / dot);
#else
    (void)team, (void)pages, (void)best;
#endif
}

struct Line {
    std::string name;
    double bytes, flops, limit_is_dot;
    int64_t layers;  // calls go round so many pieces of memory, so that none is in a cache
    std::function<void(const Worker&, int64_t layer)> op;
    double seconds = 1e9;
};

}  // namespace

int main(int argc, char** argv) {
    const bool full = argc > 1 && std::string(argv[1]) == "full";
    const int threads = argc > 2 ? std::atoi(argv[2])
                        : full   ? static_cast<int>(std::thread::hardware_concurrency())
                                 : 1;
    const IsaChoice choice = resolve_isa("");
    CHECK(choice.kernels != nullptr, "%s", choice.error.c_str());
    const Kernels& kernels = *choice.kernels;
    SpinTeam team(threads);
    std::printf("%s, %d threads\n", kernels.name, threads);

    const int64_t n = full ? 8192 : 256, k = full ? 2048 : 256, most = full ? 512 : 16, layers = full ? 8 : 1;
    const std::vector<int64_t> rows =
        full ? std::vector<int64_t>{1, 2, 3, 4, 6, 8, 12, 16, 32, 128} : std::vector<int64_t>{1, 16};
    const auto x = random_floats(most * k, 1);
    Buffer<float> y(most * n), z(most * k);
    Buffer<std::byte> shared(std::max<int64_t>(linear_shared_bytes(Act::f32, most, std::max(n, k)), 64 << 20));
    std::vector<Line> lines;
    std::vector<std::unique_ptr<Pages>> memory;
    for (const auto& [format, act, name] : {std::tuple{Format::bf16, Act::bf16, "bf16 x bf16"},
                                            {Format::bf16, Act::f32, "bf16 x f32"},
                                            {Format::f16, Act::f32, "f16 x f32"},
                                            {Format::f32, Act::f32, "f32 x f32"}}) {
        const int64_t bytes = matrix_bytes(format, n, k);
        memory.push_back(std::make_unique<Pages>(bytes * layers));
        const std::byte* data = memory.back()->data;
        for (int64_t m : rows) {
            lines.push_back({std::string(name) + " rows " + std::to_string(m), static_cast<double>(bytes),
                             2.0 * double(m * n * k), act == Act::bf16 ? 1.0 : 0.0, m > 64 ? 1 : layers,
                             [&, m, format = format, act = act, bytes, data](const Worker& w, int64_t layer) {
                                 LinearArgs a{};
                                 a.act = act;
                                 a.x = {x.data(), k};
                                 a.rows = m;
                                 a.k = k;
                                 a.parts = 1;
                                 a.part[0] = {Matrix{format, n, k, n / 16, bytes / (n / 16), data + bytes * layer},
                                              nullptr, y.data(), n};
                                 a.shared = shared.data();
                                 linear(kernels, a, w);
                             }});
        }
    }
    // Attention: 32 heads over 8 kv heads of 64 (one token a sequence over a long cache; a long prompt).
    const int64_t heads = 32, kv = 8, dim = 64, context = full ? 8192 : 512, block = 16, prompt = full ? 512 : 64;
    std::vector<int32_t> table(static_cast<size_t>(context / block)), start{0, 1}, lens{static_cast<int32_t>(context)},
        chunk{0, static_cast<int32_t>(prompt)}, short_lens{static_cast<int32_t>(prompt)};
    for (size_t i = 0; i < table.size(); i++) table[i] = static_cast<int32_t>(i);
    const auto q = random_floats(prompt * heads * dim, 2);
    Buffer<float> o(prompt * heads * dim);
    for (const auto& [type, size, name] :
         {std::tuple{KVType::bf16, 2, "bf16"}, {KVType::f16, 2, "f16"}, {KVType::f32, 4, "f32"}}) {
        const int64_t head_bytes = block * dim * size, layer = context * dim * kv * size, count = full ? 8 : 1;
        memory.push_back(std::make_unique<Pages>(layer * count));
        memory.push_back(std::make_unique<Pages>(layer * count));
        std::byte *keys = memory[memory.size() - 2]->data, *values = memory.back()->data;
        for (bool decode : {true, false}) {
            lines.push_back({std::string("attention ") + name + (decode ? " decode" : " prefill"),
                             decode ? 2.0 * double(layer) : 0.0,
                             (decode ? double(context) : double(prompt) * double(prompt) / 2) * 4 * double(heads * dim),
                             0.0, decode ? count : 1,
                             [&, type = type, decode, head_bytes, keys, values, layer](const Worker& w, int64_t i) {
                                 AttentionArgs a{};
                                 a.seqs = 1;
                                 a.heads = heads;
                                 a.kv_heads = kv;
                                 a.head_dim = dim;
                                 a.query_start = decode ? start.data() : chunk.data();
                                 a.context_lens = decode ? lens.data() : short_lens.data();
                                 a.block_tables = table.data();
                                 a.table_ld = context / block;
                                 a.scale = 0.125f;
                                 a.q = {q.data(), heads * dim};
                                 a.cache = {
                                     type,           kv, dim, block, keys + i * layer, values + i * layer, head_bytes,
                                     kv * head_bytes};
                                 a.y = o.data();
                                 a.ldy = heads * dim;
                                 a.shared = shared.data();
                                 attention(kernels, a, w);
                             }});
        }
    }

    Limits best;
    Pages pages(full ? 512 << 20 : 4 << 20);
    for (int turn = 0; turn < (full ? 15 : 2); turn++) {
        probe(team, pages, best);
        for (Line& line : lines)
            for (int64_t layer = 0; layer < line.layers; layer++)
                line.seconds = std::min(line.seconds, team.run([&](const Worker& w) { line.op(w, layer); }));
    }
    std::printf("probe: read %.1f GB/s, fma %.0f GFLOP/s, bf16 dot %.0f GFLOP/s\n", best.read, best.fma, best.dot);
    for (const Line& line : lines) {
        const double bytes = line.bytes / line.seconds * 1e-9, flops = line.flops / line.seconds * 1e-9;
        std::printf("%-24s %9.3f ms %7.1f GB/s (%3.0f %%) %8.1f GFLOP/s (%3.0f %%)\n", line.name.c_str(),
                    line.seconds * 1e3, bytes, 100 * bytes / best.read, flops,
                    100 * flops / (line.limit_is_dot != 0 ? best.dot : best.fma));
    }
    return 0;
}
