#include "memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "numa.h"

namespace penstock {
namespace {

constexpr int64_t kHuge = int64_t{2} << 20;
constexpr int64_t kLine = 64;
constexpr int64_t kChunk = int64_t{64} << 20;  // address space only: what a pool does not hand out is never touched
constexpr int64_t kLarge = int64_t{4} << 20;   // blocks from this size on are their own region
constexpr int64_t kMost = int64_t{1} << 46;

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

[[noreturn]] void refuse(int64_t bytes, const char* what, const char* why) {
    char text[256];
    std::snprintf(text, sizeof text, "cannot reserve %.1f MB for %s: %s", static_cast<double>(bytes) / 1e6, what, why);
    throw OutOfMemory(text);
}

}  // namespace

int64_t checked_product(int64_t a, int64_t b, const char* what) {
    int64_t product;
    if (a < 0 || b < 0 || __builtin_mul_overflow(a, b, &product) || product > kMost) {
        throw OutOfMemory("the size of " + std::string(what) + " (" + std::to_string(a) + " x " + std::to_string(b) +
                          " bytes) is beyond any memory");
    }
    return product;
}

Region::Region(int64_t bytes, Pages pages, const char* what) : bytes_(bytes) {
    if (bytes < 0 || bytes > kMost) refuse(bytes, what, "no such size");
    const bool huge = pages == Pages::huge && bytes >= kHuge;
    const int64_t size = round_up(std::max<int64_t>(bytes, 1), sysconf(_SC_PAGESIZE));
    const int64_t room = huge ? kHuge : 0;  // to begin at a huge page's boundary; given back below
    void* map = mmap(nullptr, size + room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) refuse(bytes, what, std::strerror(errno));
    const auto begin = reinterpret_cast<uintptr_t>(map);
    const int64_t skip = huge ? static_cast<int64_t>((kHuge - begin % kHuge) % kHuge) : 0;
    data_ = static_cast<std::byte*>(map) + skip;
    mapped_ = static_cast<size_t>(size);
    if (skip > 0) munmap(map, skip);
    if (room > skip) munmap(data_ + size, room - skip);
    madvise(data_, mapped_, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);  // a wish; a kernel without them says no
    spread(data_, mapped_, own_nodes());
}

Region::~Region() {
    if (data_ != nullptr) munmap(data_, mapped_);
}

int64_t Region::resident() const {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    std::vector<unsigned char> in(1 << 16);
    int64_t pages = 0;
    for (size_t at = 0; at < mapped_; at += in.size() * page) {
        const size_t length = std::min(in.size() * page, mapped_ - at);
        if (mincore(data_ + at, length, in.data()) != 0) return 0;
        pages += std::count_if(in.begin(), in.begin() + static_cast<int64_t>((length + page - 1) / page),
                               [](unsigned char c) { return (c & 1) != 0; });
    }
    return pages * static_cast<int64_t>(page);
}

std::byte* Pool::take(int64_t bytes, const char* what) {
    if (bytes < 0 || bytes > kMost) refuse(bytes, what, "no such size");
    const int64_t need = round_up(std::max<int64_t>(bytes, 1), kLine);
    used_ += need;
    last_ = need;
    if (need >= kLarge) return large_.emplace_back(need, Pages::huge, what).data();
    if (need > left_) {
        small_.emplace_back(kChunk, Pages::huge, what);
        left_ = kChunk;
    }
    left_ -= need;
    return small_.back().data() + (kChunk - left_ - need);
}

void Pool::give_back() {
    used_ -= last_;
    if (last_ >= kLarge)
        large_.pop_back();
    else
        left_ += last_;
    last_ = 0;
}

}  // namespace penstock
