// The team: every worker runs, barriers hold, it survives thousands of short runs, sleeps when idle, and refuses to run
// after a fork. Run under the thread sanitizer too.
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <thread>
#include <vector>

#include "cpus.h"
#include "memory.h"
#include "numa.h"
#include "support.h"
#include "team.h"

using namespace penstock;
using penstock::test::Random;

namespace {

void write(const std::string& path, const std::string& text) { std::ofstream(path) << text << "\n"; }

// Of a machine with three nodes, the last without memory; and lists that are none.
void nodes() {
    CHECK(cpu_list("0-2,5,7-7") == (std::vector<int>{0, 1, 2, 5, 7}));
    CHECK(cpu_list("").empty() && cpu_list("3-").empty() && cpu_list("a").empty() && cpu_list("5-2").empty());
    CHECK(cpu_list("0-99999999999").empty() && cpu_list("0 1").empty() && cpu_list("-1").empty());
    char folder[] = "/tmp/nodesXXXXXX";
    CHECK(mkdtemp(folder) != nullptr);
    const std::string root = folder;
    write(root + "/has_memory", "0-1");
    const char* cpus[] = {"0-3,8-11", "4-7,12-15", "16-19"};
    for (int i = 0; i < 3; i++) {
        std::filesystem::create_directory(root + "/node" + std::to_string(i));
        write(root + "/node" + std::to_string(i) + "/cpulist", cpus[i]);
    }
    CHECK(nodes_of(root, {0, 9, 4}) == (std::vector<int>{0, 1}));
    CHECK(nodes_of(root, {12, 17}) == (std::vector<int>{1}));
    CHECK(nodes_of(root + "/nowhere", {0}).empty());
    std::filesystem::remove_all(root);
    // A node that is not there is the system's to refuse; memory is memory all the same.
    Region region(int64_t{4} << 20, Pages::huge, "a test");
    CHECK(!spread(region.data(), static_cast<size_t>(region.bytes()), {0}));
    spread(region.data(), static_cast<size_t>(region.bytes()), {0, 1000});
    std::memset(region.data(), 7, static_cast<size_t>(region.bytes()));
    CHECK(region.data()[region.bytes() - 1] == std::byte{7});
}

double cpu_seconds() {
    timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

// Every item is somebody's, once, phase after phase.
void shares(int count) {
    Team team(count);
    Random random(7);
    for (int turn = 0; turn < 300; turn++) {
        const int64_t n = random.below(200), piece = 1 + random.below(20);
        std::vector<std::atomic<int>> taken(static_cast<size_t>(n));
        team.run([&](const Worker& w) {
            for (int phase = 0; phase < 2; phase++) {
                w.share_out(n, piece, [&](int64_t begin, int64_t end) {
                    CHECK(begin < end && end - begin <= (count == 1 ? n : piece));
                    for (int64_t i = begin; i < end; i++) taken[static_cast<size_t>(i)]++;
                });
                w.barrier();
            }
        });
        for (int64_t i = 0; i < n; i++)
            CHECK(taken[static_cast<size_t>(i)] == 2, "item %ld of %ld: %d", long(i), long(n),
                  taken[static_cast<size_t>(i)].load());
    }
}

// A worker that cannot go on is not waited for: it sits in its first piece until the others have done all the rest.
void others_help() {
    Team team(3);
    std::atomic<int> done{0};
    team.run([&](const Worker& w) {
        w.share_out(30, 1, [&](int64_t begin, int64_t) {
            while (begin == 10 && done.load() < 29) std::this_thread::yield();
            done++;
        });
    });
    CHECK(done == 30);
}

// A pipeline of phases over plain memory: any missing barrier is a wrong sum, and a race to the sanitizer.
void phases(int count, int runs) {
    Team team(count);
    CHECK(team.count() == count);
    const int64_t n = 999;
    std::vector<int64_t> a(n), b(n);
    for (int run = 0; run < runs; run++) {
        team.run([&](const Worker& w) {
            int64_t begin, end;
            w.range(n, begin, end);
            for (int64_t i = begin; i < end; i++) a[i] = i + run;
            w.barrier();
            for (int64_t i = begin; i < end; i++) b[i] = a[n - 1 - i];
            w.barrier();
            for (int64_t i = begin; i < end; i++) a[i] = b[(i + 1) % n];
        });
        for (int64_t i = 0; i < n; i++) CHECK(a[i] == n - 1 - (i + 1) % n + run);
    }
}

void scratch_is_private(int count) {
    Team team(count);
    const size_t bytes = 256;
    Region memory(static_cast<int64_t>(bytes) * count, Pages::small, "test");
    std::vector<int> seen(count);
    team.run(memory.data(), bytes, [&](const Worker& w) {
        CHECK(w.count == count && w.scratch_bytes == bytes);
        CHECK(w.scratch == memory.data() + w.id * bytes);
        std::memset(w.scratch, w.id + 1, bytes);
        seen[w.id]++;
    });
    for (int i = 0; i < count; i++) {
        CHECK(seen[i] == 1);
        for (size_t j = 0; j < bytes; j++) CHECK(memory.data()[i * bytes + j] == std::byte(i + 1));
    }
}

// Uneven work: some arrive while others sleep.
void stragglers() {
    Team team(3);
    std::vector<int> steps(3);
    Random random(1);
    for (int run = 0; run < 20; run++) {
        const int late = static_cast<int>(random.below(3));
        team.run([&](const Worker& w) {
            for (int i = 0; i < 3; i++) {
                if (w.id == late) std::this_thread::sleep_for(std::chrono::microseconds(300));
                steps[w.id]++;
                w.barrier();
                for (const int s : steps) CHECK(s == run * 3 + i + 1);
                w.barrier();
            }
        });
    }
}

void idle_costs_nothing() {
    Team team(2);
    team.run([](const Worker&) {});
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    const double before = cpu_seconds();
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    CHECK(cpu_seconds() - before < 0.1, "an idle team used %.3f s", cpu_seconds() - before);
}

void fork_is_refused() {
    Team* team = new Team(2);
    const pid_t pid = fork();
    if (pid == 0) {
        int status = 1;
        try {
            team->run([](const Worker&) {});
        } catch (const std::runtime_error& error) {
            status = std::string(error.what()).find("forked") == std::string::npos;
        }
        delete team;  // must not wait for threads that are not there
        _exit(status);
    }
    int status = -1;
    waitpid(pid, &status, 0);
    CHECK(status == 0, "child ended with %d", status);
    int ran = 0;
    team->run([&](const Worker& w) {
        if (w.id == 0) ran++;
    });
    CHECK(ran == 1);
    delete team;
}

}  // namespace

int main() {
    nodes();
    CHECK(default_threads() >= 1 && default_threads() <= static_cast<int>(usable_cpus().size()));
    for (const int count : {1, 2, 3, 7}) {
        phases(count, count <= 2 ? 2000 : 200);
        scratch_is_private(count);
        shares(count);
    }
    others_help();
    for (int i = 0; i < 50; i++) Team(i % 4 + 1, i % 2 == 0);  // made and ended without ever running
    stragglers();
    idle_costs_nothing();
    fork_is_refused();
    std::printf("team: ok\n");
    return 0;
}
