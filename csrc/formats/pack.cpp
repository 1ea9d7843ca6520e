// Codes of 16 rows into lines of lanes; scales beside them.
#include "formats/pack.h"

#include <cstring>

namespace penstock {
namespace {

uint32_t bits_of(float x) { return __builtin_bit_cast(uint32_t, x); }

// Codes of one row, a byte each, into lane `lane` of the lines at `out`.
class Lane {
  public:
    Lane(std::byte* out, int lane) : out_(out + lane * 4) {}
    void put(uint32_t word) {
        std::memcpy(out_, &word, 4);
        out_ += kLineBytes;
    }

  private:
    std::byte* out_;
};

// The bits `mask` (of every byte) of `count` words, `width` apart, from bit `shift` on.
uint32_t gathered(const uint32_t* w, int count, int shift, uint32_t mask, int width) {
    uint32_t all = 0;
    for (int i = 0; i < count; i++) all |= (w[i] >> shift & mask) << (i * width);
    return all;
}

void write_codes(CodeKind kind, const uint8_t* codes, int64_t inputs, std::byte* out, int lane) {
    constexpr uint32_t kNibble = 0x0f0f0f0f, kCrumb = 0x03030303, kBit = 0x01010101;
    const int unit = unit_inputs(kind);
    Lane to(out, lane);
    uint32_t w[8];
    for (int64_t i = 0; i < inputs; i += unit) {
        std::memcpy(w, codes + i, static_cast<size_t>(unit));
        switch (kind) {
            case CodeKind::u8:
            case CodeKind::e4m3:
                to.put(w[0]);
                break;
            case CodeKind::u4:
            case CodeKind::iq4:
                to.put(w[0] | w[1] << 4);
                break;
            case CodeKind::u2:
                to.put(gathered(w, 4, 0, kCrumb, 2));
                break;
            case CodeKind::u6:
                to.put(gathered(w, 2, 0, kNibble, 4));
                to.put(gathered(w + 2, 2, 0, kNibble, 4));
                to.put(gathered(w, 4, 4, kCrumb, 2));
                break;
            case CodeKind::u5:
                for (int j = 0; j < 8; j += 2) to.put(gathered(w + j, 2, 0, kNibble, 4));
                to.put(gathered(w, 8, 4, kBit, 1));
                break;
            case CodeKind::u3:
                to.put(gathered(w, 4, 0, kCrumb, 2));
                to.put(gathered(w + 4, 4, 0, kCrumb, 2));
                to.put(gathered(w, 8, 2, kBit, 1));
                break;
        }
    }
}

void write_number(std::byte* p, int64_t at, int bytes, float x) {
    if (bytes == 4) std::memcpy(p + at * 4, &x, 4);
    const uint16_t half = bytes == 2 ? to_half(x) : 0;
    if (bytes == 2) std::memcpy(p + at * 2, &half, 2);
    if (bytes == 1) p[at] = static_cast<std::byte>(static_cast<int>(x) & 255);
}

int zero_bytes(const Quant& q, int scale_bytes) {
    switch (q.zeros) {
        case ZeroKind::constant:
            return 0;
        case ZeroKind::u8:
            return 1;
        case ZeroKind::f16:
            return 2;
        case ZeroKind::f32:
            return 4;
        case ZeroKind::shift:
            return scale_bytes;
    }
    return 0;
}

}  // namespace

bool is_half(float x) {
    const uint32_t u = bits_of(x), a = u & 0x7fffffff;
    if (a == 0) return true;
    if (a < 0x38800000) {  // below 2^-14: multiples of 2^-24
        const float scaled = __builtin_fabsf(x) * 16777216.0f;
        return scaled >= 1 && scaled == static_cast<float>(static_cast<int>(scaled));
    }
    return a < 0x47800000 && (a & 0x1fff) == 0;
}

uint16_t to_half(float x) {
    const uint32_t u = bits_of(x), sign = u >> 16 & 0x8000, a = u & 0x7fffffff;
    if (a >= 0x7f800000) return static_cast<uint16_t>(sign | (a > 0x7f800000 ? 0x7e00 : 0x7c00));
    if (a < 0x38800000)
        return static_cast<uint16_t>(sign | static_cast<uint32_t>(static_cast<int>(__builtin_fabsf(x) * 16777216.0f)));
    return static_cast<uint16_t>(sign | ((a - (112u << 23)) >> 13));
}

void pack_quantised(const Quant& q, int64_t n, const ReadChunk& read, std::byte* dst, int64_t tile0, int64_t tile1) {
    const ChunkLayout at(q);
    const int64_t bytes = quant_tile_bytes(q), count = q.groups();
    const bool super = q.scales == ScaleKind::super;
    const int scale_bytes = super ? 1 : q.scales == ScaleKind::f16 ? 2 : 4, of_zero = zero_bytes(q, scale_bytes);
    std::vector<uint8_t> codes(static_cast<size_t>(q.per_chunk * q.padded() + 32));
    for (int64_t tile = tile0; tile < tile1; tile++) {
        std::byte* chunk = dst + tile * bytes;
        for (int64_t g = 0; g < count; g += q.per_chunk, chunk += at.bytes) {
            const int64_t groups = count - g < q.per_chunk ? count - g : q.per_chunk;
            const int64_t inputs = (groups - 1) * q.padded() + q.padded_of(g + groups - 1);
            std::memset(chunk, 0, static_cast<size_t>(at.codes));
            for (int lane = 0; lane < kTile; lane++) {
                const int64_t row = tile * kTile + lane;
                RowChunk piece{};
                piece.codes = codes.data();
                std::memset(codes.data(), 0, codes.size());
                if (row < n) read(row, g, groups, piece);
                for (int64_t i = 0; i < groups; i++) {
                    write_number(chunk + at.scales, i * kTile + lane, scale_bytes, piece.scales[i]);
                    if (of_zero > 0) write_number(chunk + at.zeros, i * kTile + lane, of_zero, piece.zeros[i]);
                }
                if (super) std::memcpy(chunk + lane * 2, &piece.d, 2);
                if (super && q.zeros == ZeroKind::shift) std::memcpy(chunk + 32 + lane * 2, &piece.m, 2);
                write_codes(q.codes, codes.data(), inputs, chunk + at.codes, lane);
            }
        }
    }
}

}  // namespace penstock
