// GCC 12 warns of its own intrinsics' deliberately undefined operands (its bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include "probe.h"
#include "vec/amx.h"

namespace penstock {
namespace {

template <Product kKind>
double products(int64_t rounds, int64_t inputs) {
    alignas(64) static const std::byte nothing[kTileBytes] = {};
    Tiles state;
    state.shape(kTileRows, kTileRows, 64);
    clear_sums<2, 2>();
    load_tile<4>(nothing, 64);
    load_tile<5>(nothing, 64);
    load_tile<6>(nothing, 64);
    load_tile<7>(nothing, 64);
    for (int64_t i = 0; i < rounds; i++) {
        add_product<kKind, 0, 4, 6>();
        add_product<kKind, 1, 4, 7>();
        add_product<kKind, 2, 5, 6>();
        add_product<kKind, 3, 5, 7>();
    }
    return static_cast<double>(rounds * 4 * kTileRows * 16 * inputs * 2);
}

double f32(int64_t rounds) { return kPeakAvx512.f32(rounds); }
double bf16(int64_t rounds) { return products<Product::bf16>(rounds, 32); }
double int8(int64_t rounds) { return products<Product::bytes>(rounds, 64); }
uint64_t read(const std::byte* data, int64_t bytes) { return kPeakAvx512.read(data, bytes); }

}  // namespace

const PeakKernels kPeakAmx = {f32, bf16, int8, read};

}  // namespace penstock
