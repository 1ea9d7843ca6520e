#include "numa.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <climits>
#include <fstream>

#include "cpus.h"

namespace penstock {
namespace {

constexpr int kMost = 1024;                   // no machine has more nodes or, of one node, more CPUs
constexpr int kDefault = 0, kInterleave = 3;  // linux/mempolicy.h, which not every system has
constexpr size_t kBits = sizeof(unsigned long) * CHAR_BIT;

std::string text_of(const std::string& path) {
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    return line;
}

bool policy_is_default() {
    int mode = kDefault;
    return syscall(SYS_get_mempolicy, &mode, nullptr, 0, nullptr, 0) == 0 && mode == kDefault;
}

}  // namespace

std::vector<int> cpu_list(const std::string& text) {
    std::vector<int> found;
    const char *at = text.data(), *end = at + text.size();
    while (at < end) {
        int first = 0, last = 0;
        auto [next, error] = std::from_chars(at, end, first);
        if (error != std::errc() || first < 0 || first >= kMost * 64) return {};
        last = first;
        if (next < end && *next == '-') {
            const auto [after, bad] = std::from_chars(next + 1, end, last);
            if (bad != std::errc() || last < first || last >= kMost * 64) return {};
            next = after;
        }
        for (int i = first; i <= last; i++) found.push_back(i);
        if (next < end && *next != ',') return *next == '\n' ? found : std::vector<int>{};
        at = next + 1;
    }
    return found;
}

std::vector<int> nodes_of(const std::string& folder, const std::vector<int>& cpus) {
    std::vector<int> found;
    for (const int node : cpu_list(text_of(folder + "/has_memory"))) {
        const std::vector<int> own = cpu_list(text_of(folder + "/node" + std::to_string(node) + "/cpulist"));
        const bool used = std::any_of(cpus.begin(), cpus.end(),
                                      [&](int cpu) { return std::find(own.begin(), own.end(), cpu) != own.end(); });
        if (used && node < kMost) found.push_back(node);
    }
    return found;
}

const std::vector<int>& own_nodes() {
    static const std::vector<int> nodes = nodes_of("/sys/devices/system/node", usable_cpus());
    return nodes;
}

bool spread(void* data, size_t bytes, const std::vector<int>& nodes) {
    if (nodes.size() < 2 || !policy_is_default()) return false;
    unsigned long mask[kMost / kBits] = {};
    for (const int node : nodes) mask[static_cast<size_t>(node) / kBits] |= 1ul << static_cast<size_t>(node) % kBits;
    return syscall(SYS_mbind, data, bytes, kInterleave, mask, static_cast<unsigned long>(kMost), 0) == 0;
}

}  // namespace penstock
