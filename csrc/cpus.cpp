#include "cpus.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>

namespace penstock {
namespace {

std::string first_line(const std::string& path) {
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    return line;
}

// Quota in CPUs of one cgroup folder (v2 `cpu.max`, v1 `cpu.cfs_*`), infinity where there is none.
double quota_at(const std::string& folder) {
    double quota = 0, period = 0;
    if (std::istringstream v2(first_line(folder + "/cpu.max")); v2 >> quota >> period && quota > 0 && period > 0) {
        return quota / period;
    }
    std::istringstream v1(first_line(folder + "/cpu.cfs_quota_us") + " " + first_line(folder + "/cpu.cfs_period_us"));
    if (v1 >> quota >> period && quota > 0 && period > 0) return quota / period;
    return std::numeric_limits<double>::infinity();
}

// The tightest quota from the process's own cgroup up to the root, in every hierarchy that knows CPUs.
double cpu_quota() {
    double least = quota_at("/sys/fs/cgroup");
    std::ifstream groups("/proc/self/cgroup");
    for (std::string line; std::getline(groups, line);) {  // id:controllers:path
        const size_t a = line.find(':'), b = a == std::string::npos ? a : line.find(':', a + 1);
        if (b == std::string::npos) continue;
        const std::string controllers = "," + line.substr(a + 1, b - a - 1) + ",";
        const bool v2 = controllers == ",,";
        if (!v2 && controllers.find(",cpu,") == std::string::npos) continue;
        for (const char* root : {"/sys/fs/cgroup", "/sys/fs/cgroup/cpu", "/sys/fs/cgroup/unified"}) {
            for (std::string path = line.substr(b + 1);; path.resize(path.rfind('/'))) {
                least = std::min(least, quota_at(root + path));
                if (path.rfind('/') == std::string::npos) break;
            }
        }
    }
    return least;
}

// The lowest CPU number among those that share this one's physical core; itself where the system does not say.
int core_of(int cpu) {
    std::istringstream list(
        first_line("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list"));
    int lowest = cpu;
    return list >> lowest ? lowest : cpu;
}

std::vector<int> allowed_cpus() {
    for (int size = CPU_SETSIZE; size <= 1 << 16; size *= 2) {  // a mask too small is refused
        cpu_set_t* set = CPU_ALLOC(size);
        if (set == nullptr) break;
        std::vector<int> cpus;
        const bool ok = sched_getaffinity(0, CPU_ALLOC_SIZE(size), set) == 0;
        for (int i = 0; ok && i < size; i++) {
            if (CPU_ISSET_S(i, CPU_ALLOC_SIZE(size), set)) cpus.push_back(i);
        }
        CPU_FREE(set);
        if (ok && !cpus.empty()) return cpus;
    }
    return {0};
}

struct Cpus {
    std::vector<int> order;  // cores first, then siblings
    int cores = 0;
};

Cpus find() {
    Cpus cpus;
    std::vector<int> seen, siblings;
    for (int cpu : allowed_cpus()) {
        const int core = core_of(cpu);
        if (std::find(seen.begin(), seen.end(), core) == seen.end()) {
            seen.push_back(core);
            cpus.order.push_back(cpu);
        } else {
            siblings.push_back(cpu);
        }
    }
    cpus.cores = static_cast<int>(cpus.order.size());
    cpus.order.insert(cpus.order.end(), siblings.begin(), siblings.end());
    return cpus;
}

}  // namespace

std::vector<int> usable_cpus() { return find().order; }

int default_threads() {
    const double quota = std::floor(cpu_quota() + 1e-9);
    return std::max(1, static_cast<int>(std::min<double>(find().cores, quota)));
}

}  // namespace penstock
