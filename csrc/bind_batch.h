// penstock.types.Batch and SamplingBatch as the executor's plain structs. The arrays are kept alive here.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <vector>

#include "batch.h"
#include "plan.h"
#include "sampler.h"

namespace penstock {

// Reads attributes of Python objects as arrays: contiguous, of one type, on the CPU; converts where that is possible.
// Keeps them until they are read again: an array that then still stands there is known, and not looked into anew.
class Arrays {
  public:
    void restart() { next_ = 0; }

    template <class T>
    Span<T> get(nanobind::handle object, const char* name) {
        const Array& a = *take<T, 1>(object, name, false);
        return {static_cast<const T*>(a.data()), static_cast<int64_t>(a.shape(0))};
    }
    // Null for None.
    template <class T>
    Span<T> get_optional(nanobind::handle object, const char* name) {
        const Array* a = take<T, 1>(object, name, true);
        return a == nullptr ? Span<T>{} : Span<T>{static_cast<const T*>(a->data()), static_cast<int64_t>(a->shape(0))};
    }
    template <class T>
    const T* get_matrix(nanobind::handle object, const char* name, int64_t& rows, int64_t& columns,
                        bool optional = false) {
        const Array* a = take<T, 2>(object, name, optional);
        if (a == nullptr) return nullptr;
        rows = static_cast<int64_t>(a->shape(0));
        columns = static_cast<int64_t>(a->shape(1));
        return static_cast<const T*>(a->data());
    }
    // [n, 2] pairs, flat. Null for None.
    Span<int32_t> get_pairs(nanobind::handle object, const char* name);

  private:
    using Array = nanobind::ndarray<nanobind::ro>;
    struct Field {
        const char* name = nullptr;
        nanobind::object key;     // the name, as Python looks it up
        nanobind::object source;  // nothing where the array is a converted copy of it
        Array array;
    };
    // Null where None is allowed and found.
    template <class T, int N>
    const Array* take(nanobind::handle object, const char* name, bool optional);

    std::vector<Field> fields_;  // in the order of reading
    size_t next_ = 0;
};

Batch read_batch(Arrays& arrays, nanobind::handle batch);
SamplingBatch read_sampling(Arrays& arrays, nanobind::handle sampling);

// A float array of a StepOutput that must have this shape; null for None.
float* place(nanobind::handle output, const char* name, std::vector<int64_t> shape);
// The arrays of a StepOutput for n entries.
SampleOutput read_sample_output(nanobind::handle output, int64_t n);

}  // namespace penstock
