#include "bench/churn/reader.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <stdexcept>
#include <utility>

namespace quash::bench {
namespace {

// Nanoseconds that this thread has run and has waited for a core, from the
// kernel; zero where it does not count them.
class ScheduledTime {
 public:
  ScheduledTime() : file_(open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC)) {}
  ~ScheduledTime() {
    if (file_ >= 0) close(file_);
  }
  double Nanoseconds() const {
    char text[96] = "";
    if (file_ < 0 || pread(file_, text, sizeof(text) - 1, 0) <= 0) return 0;
    char* end = nullptr;
    const double run = std::strtod(text, &end);
    return run + std::strtod(end, nullptr);
  }

 private:
  int file_;
};

double Percentile(std::vector<double>* values, double p) {
  const auto at = values->begin() +
                  static_cast<std::ptrdiff_t>(p * static_cast<double>(values->size() - 1) + 0.5);
  std::nth_element(values->begin(), at, values->end());
  return *at;
}

// Shorter ones are not told from a late timer.
constexpr double kLeastStandStillUs = 20e3;
constexpr std::chrono::milliseconds kHeartbeat{2};

}  // namespace

StandStill::StandStill() : thread_([this] { Run(); }) {}

StandStill::~StandStill() {
  stop_ = true;
  thread_.join();
}

void StandStill::Run() {
  using Clock = std::chrono::steady_clock;
  const ScheduledTime scheduled;
  while (!stop_) {
    const double scheduled_before = scheduled.Nanoseconds();
    const auto start = Clock::now();
    std::this_thread::sleep_for(kHeartbeat);
    const double late =
        std::chrono::duration<double, std::micro>(Clock::now() - start - kHeartbeat).count() -
        (scheduled.Nanoseconds() - scheduled_before) / 1e3;
    if (late > kLeastStandStillUs) total_us_ = total_us_ + late;
  }
}

Reader::Reader(quash_collection* collection, std::vector<float> queries, uint32_t dim, size_t k)
    : collection_(collection), queries_(std::move(queries)), dim_(dim), k_(k), thread_([this] {
        Run();
      }) {}

Reader::~Reader() {
  stop_ = true;
  thread_.join();
}

void Reader::Run() {
  using Clock = std::chrono::steady_clock;
  const ScheduledTime scheduled;
  quash_search_options options;
  quash_search_options_init(&options);
  options.threads = 1;
  std::vector<int64_t> ids(k_);
  std::vector<float> scores(k_);
  const size_t nq = queries_.size() / dim_;
  for (size_t i = 0; !stop_; i = (i + 1) % nq) {
    const double scheduled_before = scheduled.Nanoseconds();
    const double stood_before = stand_still_.Total();
    const auto start = Clock::now();
    const quash_status status = quash_search_into(collection_, &queries_[i * dim_], 1, k_, &options,
                                                  ids.data(), scores.data(), nullptr);
    double wall = std::chrono::duration<double, std::micro>(Clock::now() - start).count();
    const double ran = (scheduled.Nanoseconds() - scheduled_before) / 1e3;
    if (wall - ran > kLeastStandStillUs) {
      std::this_thread::sleep_for(5 * kHeartbeat);  // until the other thread has noticed
      wall -= std::min(stand_still_.Total() - stood_before, wall - ran);
    }
    {
      const std::lock_guard lock(mutex_);
      if (status != QUASH_OK) {
        error_ = fmt::format("a search gave {}: {}", quash_status_name(status), quash_errmsg());
        return;
      }
      wall_us_.push_back(wall);
      max_blocked_us_ = std::max(max_blocked_us_, wall - ran);
    }
    // Leaves the writer most of the machine.
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

Latencies Reader::Take() {
  std::vector<double> wall;
  Latencies result;
  {
    const std::lock_guard lock(mutex_);
    if (!error_.empty()) throw std::runtime_error(error_);
    wall.swap(wall_us_);
    result.max_blocked = std::exchange(max_blocked_us_, 0);
  }
  result.searches = wall.size();
  if (wall.empty()) return result;
  result.p50 = Percentile(&wall, 0.5);
  result.p99 = Percentile(&wall, 0.99);
  result.max = *std::max_element(wall.begin(), wall.end());
  return result;
}

}  // namespace quash::bench
