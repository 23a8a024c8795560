// Long work tells Python how far it is.
#pragma once

#include <nanobind/nanobind.h>

#include <string>
#include <utility>

#include "rarefy/progress.h"

namespace rarefy::python {

/// Hands progress to a Python function, which may raise to stop the work; None: Ctrl-C stops it.
class CallbackProgress final : public Progress {
 public:
  explicit CallbackProgress(nanobind::object callback) : callback_(std::move(callback)) {}
  void update(std::string_view what, std::int64_t done, std::int64_t total,
              std::string_view detail) override {
    const nanobind::gil_scoped_acquire locked;
    if (PyErr_CheckSignals() != 0) throw nanobind::python_error();
    if (!callback_.is_none()) callback_(std::string(what), done, total, std::string(detail));
  }

 private:
  nanobind::object callback_;
};

}  // namespace rarefy::python
