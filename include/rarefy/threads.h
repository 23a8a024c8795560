// A persistent pool of threads. Workers spin for a short while after each job, then sleep, so that
// a job costs about a microsecond while a model is decoding and nothing while it is not.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace rarefy {

class ThreadPool {
 public:
  /// `threads` counts the caller: 1 runs everything inline. 0 takes RAREFY_THREADS, or else the
  /// number of usable CPUs.
  explicit ThreadPool(int threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  [[nodiscard]] int size() const;

  /// Calls job(worker) once for each worker in 0…size()-1, the caller being worker 0, and returns
  /// when all are done. The first exception is rethrown. Nested calls from inside a job run inline.
  void run(const std::function<void(int worker)>& job);

  /// Cuts [0, count) into size() contiguous ranges of nearly equal length and calls body(begin,
  /// end) for each that is not empty.
  void parallel_for(std::int64_t count,
                    const std::function<void(std::int64_t, std::int64_t)>& body);

  /// Hands out chunks of `grain` consecutive items to whoever is free: for items of unknown cost.
  void parallel_dynamic(std::int64_t count, std::int64_t grain,
                        const std::function<void(std::int64_t, std::int64_t)>& body);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// One pool for the whole process, made at the first call with the default size (or the last
/// `set_default_threads`).
ThreadPool& default_pool();

/// Makes a pool of this size the default one. Those before it stay as they are, for models that
/// were made with them and go on running on them; their threads sleep. A size that was the default
/// before brings its pool back, so that no more pools than sizes are ever kept. May be called at
/// any time.
void set_default_threads(int threads);

}  // namespace rarefy
