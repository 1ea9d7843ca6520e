// A line of memory asked for before it is needed, into the second-level cache. (GCC 12 drops the builtin: a function of
// nothing else has no effect in its eyes.)
#pragma once

namespace penstock {

inline void prefetch_line(const void* p) {
#if defined(__x86_64__)
    asm volatile("prefetcht1 %0" : : "m"(*static_cast<const char*>(p)));
#else
    __builtin_prefetch(p, 0, 2);
#endif
}

}  // namespace penstock
