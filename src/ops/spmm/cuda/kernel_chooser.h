// A kernel for each of many weights: what a whole model is packed by.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "ops/spmm/cuda/search.h"
#include "ops/spmm/cuda/second_form.h"
#include "rarefy/threads.h"

namespace rarefy::gpu {

/// Of kernels that are this close to the fastest the smallest one is taken: a model is also
/// measured by its memory, and what holds fewer bytes is faster on many tokens.
constexpr double kGivenForBytes = 1.08;

/// Of the dense bytes: what a weight's forms take together unless somebody says otherwise. Never
/// room for a dense one beside a packed one.
constexpr double kWeightMemory = 0.75;

struct ChooserOptions {
  bool dense_only = false;  ///< Keeps zeros.
  bool measure = true;      ///< false: measures the best estimate against dense only.
  /// A weight of at most this density whose format cannot be expanded (2:4 by cuSPARSELt) gets a
  /// second one that can, for many tokens: 2 or 4 bytes a nonzero more.
  double two_formats_up_to = 0.05;
  /// A packed weight gets a second form for many tokens where both together take at most this share
  /// of the dense weight's bytes: blocks, where enough of them are empty, else the dense weight.
  double weight_memory = kWeightMemory;
};

/// The first weight of a kind (shape, dtypes, density, share of empty blocks) is searched; those
/// that are like it take the same kernel, so that a model costs a handful of searches.
class KernelChooser {
 public:
  struct Chosen {
    std::unique_ptr<Operator> op;  ///< For any number of tokens.
    /// The same weight in a format that expands, where that of `op` does not; may be empty.
    std::unique_ptr<Operator> expandable;
    std::string kernel;
    double time_us = 0;          ///< As measured when the kernel was chosen.
    std::int64_t many_from = 0;  ///< Tokens from which `op` runs its second kernel; 0: it has one.
  };

  /// @param source of the problem's shape and dtype; may go away afterwards.
  /// Throws `Error` as `choose` does.
  Chosen make(const RowSource& source, const Problem& problem, const ChooserOptions& options,
              const cuda::Stream& stream, ThreadPool& pool);

 private:
  struct Known {
    std::string kernel;
    double time_us = 0;
    /// Tokens from which a second form runs; 0: not known, kAnyNumber: it is never faster.
    std::int64_t from = 0;
  };
  struct Form {
    std::unique_ptr<Operator> op;
    Known& known;
  };
  /// The kernel that is known for the kind where it takes this weight, else what a search finds.
  Form form_of(const std::string& kind, const Problem& problem, const Weight& weight,
               const SearchOptions& search, const cuda::Stream& stream, ThreadPool& pool);

  /// Makes `chosen` run that form for many tokens. False where there is none, no room for it, or
  /// `chosen` is faster: many tokens can do without.
  bool add_second(Chosen& chosen, SecondForm second, const std::string& kind,
                  const Problem& problem, const Weight& weight, SearchOptions search,
                  const cuda::Stream& stream, ThreadPool& pool);

  std::map<std::string, Known> known_;  ///< By kind.
};

}  // namespace rarefy::gpu
