// Memory straight from the system: address space that is taken as it is touched, and a pool of huge pages for weights.
#pragma once
#include <cstddef>
#include <cstdint>
#include <new>
#include <string>
#include <utility>
#include <vector>

namespace penstock {

// An allocation the system refused; what() has the numbers.
class OutOfMemory : public std::bad_alloc {
  public:
    explicit OutOfMemory(std::string message) : message_(std::move(message)) {}
    const char* what() const noexcept override { return message_.c_str(); }

  private:
    std::string message_;
};

// a * b for sizes from outside; throws OutOfMemory where that is no size.
int64_t checked_product(int64_t a, int64_t b, const char* what);

enum class Pages : uint8_t {
    small,  // memory grows page by page as it is touched
    huge,   // 2 MB pages where the system gives them
};

// Zeroed address space, private to this process. `what` names it in the error.
class Region {
  public:
    Region() = default;
    Region(int64_t bytes, Pages pages, const char* what);
    Region(Region&& other) noexcept { swap(other); }
    Region& operator=(Region&& other) noexcept {
        Region(std::move(other)).swap(*this);
        return *this;
    }
    ~Region();

    std::byte* data() const { return data_; }
    int64_t bytes() const { return bytes_; }
    // Bytes that the system has really given.
    int64_t resident() const;

  private:
    void swap(Region& other) {
        std::swap(mapped_, other.mapped_);
        std::swap(data_, other.data_);
        std::swap(bytes_, other.bytes_);
    }
    size_t mapped_ = 0;
    std::byte* data_ = nullptr;
    int64_t bytes_ = 0;
};

// Many blocks of any size, freed together. Each begins on a 64-byte line; small ones share huge pages.
class Pool {
  public:
    std::byte* take(int64_t bytes, const char* what);
    // Takes back the last block that was handed out; once between two of them.
    void give_back();
    int64_t used() const { return used_; }

  private:
    std::vector<Region> large_, small_;
    int64_t left_ = 0;
    int64_t used_ = 0;
    int64_t last_ = 0;
};

}  // namespace penstock
