// How fast linear is over quantised weights, on one thread, beside what a
// thread may reach: reading memory, byte dot products, and a plain tile of
// nibbles without anything around it. Best of many short calls, interleaved.
//   bench_quantised          a glance
//   bench_quantised full [kind] [rows]   weights larger than the caches; of kinds whose name has this in it
//   bench_quantised full kind rows columns   the same few columns again and again, which caches hold
#if defined(__x86_64__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12 warns of its own intrinsics
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#endif
#include <sys/mman.h>
#include <time.h>

#include <algorithm>

#include "formats/pack.h"
#include "support.h"

using namespace penstock;
using namespace penstock::test;

namespace {

// Of this thread: other processes take their turns.
double now() {
    timespec t{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

volatile double sink;

#if defined(__x86_64__)
#define PENSTOCK_512 __attribute__((target("avx512f,avx512bw,avx512vnni")))

PENSTOCK_512 void read_all(const std::byte* p, int64_t n) {
    __m512i s[4] = {};
    for (int64_t i = 0; i + 256 <= n; i += 256)
        for (int j = 0; j < 4; j++) s[j] = _mm512_add_epi64(s[j], _mm512_loadu_si512(p + i + 64 * j));
    sink = static_cast<double>(_mm512_reduce_add_epi64(s[0]) + _mm512_reduce_add_epi64(s[1]) +
                               _mm512_reduce_add_epi64(s[2]) + _mm512_reduce_add_epi64(s[3]));
}
PENSTOCK_512 void dot_all(int64_t n) {
    __m512i s[12], a = _mm512_set1_epi32(0x01020304);
    for (int i = 0; i < 12; i++) s[i] = _mm512_set1_epi32(i);  // else the compiler makes one of them
    for (int64_t i = 0; i < n; i++)
#pragma GCC unroll 12
        for (auto& x : s) x = _mm512_dpbusd_epi32(x, a, a);
    int64_t r = 0;
    for (auto& x : s) r += _mm512_reduce_add_epi32(x);
    sink = static_cast<double>(r);
}
#endif

struct Line {
    std::string name;
    double bytes, ops;
    std::function<void(int64_t layer)> call;
    double seconds = 1e9;
};

Quant quant(CodeKind codes, ScaleKind scales, ZeroKind zeros, int group, int64_t k) {
    Quant q;
    q.codes = codes;
    q.scales = scales;
    q.zeros = zeros;
    q.zero = 8;
    q.group = group;
    q.per_chunk = std::max(1, kChunkInputs / group);
    q.inputs = k;
    return q;
}

}  // namespace

int main(int argc, char** argv) {
    const bool full = argc > 1 && std::string(argv[1]) == "full";
    const IsaChoice choice = resolve_isa("");
    CHECK(choice.kernels != nullptr, "%s", choice.error.c_str());
    const Kernels& kernels = *choice.kernels;
    const int64_t few = argc > 4 ? std::atoi(argv[4]) : 0;
    const int64_t k = 2048, n = full ? 8192 : 256, layers = full && few == 0 ? 8 : 1, most = 512;
    struct Kind {
        const char* name;
        Quant q;
        Act act;
    };
    const Kind kinds[] = {
        {"int4 group 128", quant(CodeKind::u4, ScaleKind::f16, ZeroKind::constant, 128, k), Act::i8},
        {"int4 group 128 zeros", quant(CodeKind::u4, ScaleKind::f16, ZeroKind::u8, 128, k), Act::i8},
        {"int4 group 32", quant(CodeKind::u4, ScaleKind::f16, ZeroKind::constant, 32, k), Act::i8},
        {"q4_k", quant(CodeKind::u4, ScaleKind::super, ZeroKind::shift, 32, k), Act::i8},
        {"q5_k", quant(CodeKind::u5, ScaleKind::super, ZeroKind::shift, 32, k), Act::i8},
        {"q6_k", quant(CodeKind::u6, ScaleKind::super, ZeroKind::constant, 16, k), Act::i8},
        {"q8_0", quant(CodeKind::u8, ScaleKind::f16, ZeroKind::constant, 32, k), Act::i8},
        {"int8 group 128", quant(CodeKind::u8, ScaleKind::f32, ZeroKind::constant, 128, k), Act::i8},
        {"int4 group 128 float", quant(CodeKind::u4, ScaleKind::f16, ZeroKind::constant, 128, k), Act::f32},
        {"fp8 float", quant(CodeKind::e4m3, ScaleKind::f32, ZeroKind::constant, 128, k), Act::f32},
    };
    const std::string only = argc > 2 ? argv[2] : "";
    const int64_t only_rows = argc > 3 ? std::atoi(argv[3]) : 0;
    const int64_t size = (int64_t{n} * k * 5 / 4 + (2 << 20)) * layers;
    auto* data = static_cast<std::byte*>(
        mmap(nullptr, static_cast<size_t>(size), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    madvise(data, static_cast<size_t>(size), MADV_HUGEPAGE);
    std::memset(data, 0x11, static_cast<size_t>(size));
    const Buffer<float> x = random_floats(most * k, 1);
    Buffer<float> y(most * n);
    Buffer<std::byte> scratch(16 << 20), shared(64 << 20);
    Worker worker{};
    worker.count = 1;
    worker.scratch = scratch.data();
    worker.barrier_fn = [](void*) {};

    std::vector<Line> lines;
    for (const Kind& kind : kinds) {
        if (!only.empty() && std::string(kind.name).find(only) == std::string::npos) continue;
        for (int64_t m : full ? std::vector<int64_t>{1, 2, 4, 8, 16, 32, 128, 512} : std::vector<int64_t>{1, 16}) {
            if (only_rows > 0 && m != only_rows) continue;
            const int64_t columns = few > 0  ? few
                                    : m < 16 ? n
                                             : std::min<int64_t>(n, m < 128 ? 1024 : 2048),
                          tile = quant_tile_bytes(kind.q);
            lines.push_back(
                {std::string(kind.name) + " rows " + std::to_string(m), static_cast<double>(columns / 16 * tile),
                 2.0 * static_cast<double>(m * columns * k), [&, m, columns, tile](int64_t layer) {
                     LinearArgs a{};
                     a.act = kind.act;
                     a.x = {x.data(), k};
                     a.rows = m;
                     a.k = k;
                     a.parts = 1;
                     const std::byte* from = data + layer * (size / layers / 64 * 64);
                     a.part[0] = {
                         {Format::quantised, columns, k, columns / 16, tile, from, kind.q}, nullptr, y.data(), columns};
                     a.shared = shared.data();
                     linear(kernels, a, worker);
                 }});
        }
    }
    double read = 1e9, dots = 1e9;
    constexpr int64_t kTurns = 1 << 15;
    for (int turn = 0; turn < (full ? 12 : 2); turn++) {
#if defined(__x86_64__)
        if (__builtin_cpu_supports("avx512vnni")) {
            const int64_t piece = size / layers / 4096 * 4096;
            for (int64_t layer = 0; layer < layers; layer++) {
                const double start = now();
                read_all(data + layer * piece, piece);
                read = std::min(read, (now() - start) / static_cast<double>(piece));
            }
            const double start = now();
            dot_all(kTurns);
            dots = std::min(dots, (now() - start) / (128.0 * 12 * kTurns));
        }
#endif
        for (Line& line : lines)
            for (int64_t layer = 0; layer < (line.ops > 1e9 ? 1 : layers); layer++) {
                const double start = now();
                line.call(layer);
                line.seconds = std::min(line.seconds, now() - start);
            }
    }
    std::printf("%s, one thread; probe: read %.1f GB/s, byte dot products %.0f Gop/s\n", kernels.name, 1e-9 / read,
                1e-9 / dots);
    for (const Line& line : lines) {
        const double bytes = line.bytes / line.seconds, ops = line.ops / line.seconds;
        std::printf("%-30s %9.3f ms %7.1f GB/s (%3.0f %%) %8.1f Gop/s (%3.0f %%)\n", line.name.c_str(),
                    line.seconds * 1e3, bytes * 1e-9, 100 * bytes * read, ops * 1e-9, 100 * ops * dots);
    }
    munmap(data, static_cast<size_t>(size));
    return 0;
}
