// One token of each of several sequences, and models on a device.
#include <algorithm>
#include <cmath>
#include <vector>

#include "base/check.h"
#include "model/model_impl.h"
#include "rarefy/transformer_ops.h"

namespace rarefy {
namespace {

void check_batch(const Model::Impl& m, std::span<const TokenId> ids,
                 std::span<KvCache* const> caches) {
  require(!ids.empty() && ids.size() == caches.size(),
          "model: decode: expected one token for each of the sequences, got {} for {}", ids.size(),
          caches.size());
  for (const TokenId id : ids) {
    require(id >= 0 && id < m.config.vocab_size, "model: token ids: expected 0…{}, got {}",
            m.config.vocab_size - 1, id);
  }
  for (std::size_t i = 0; i < caches.size(); ++i) {
    require(std::count(caches.begin(), caches.end(), caches[i]) == 1,
            "model: decode: expected a cache for each sequence, got one twice");
    m.check_cache(*caches[i], 1);
  }
}

TokenId likeliest(std::span<const float> logits) {
  const auto largest = std::max_element(logits.begin(), logits.end());
  const bool nan = std::any_of(logits.begin(), logits.end(), [](float x) { return std::isnan(x); });
  return nan || !std::isfinite(*largest) ? -1 : static_cast<TokenId>(largest - logits.begin());
}

}  // namespace

Buffer Model::Impl::forward_on_device(std::span<const TokenId> ids, KvCache& cache, bool all,
                                      std::int64_t chunk) const {
  const auto total = static_cast<std::int64_t>(ids.size());
  const std::int64_t vocab = config.vocab_size;
  Buffer logits(static_cast<std::size_t>((all ? total : 1) * vocab) * sizeof(float));
  if (total == 1) {
    KvCache* const caches[] = {&cache};
    decode_on_device(ids, caches, logits.as<float>(), nullptr);
    return logits;
  }
  for (std::int64_t begin = 0; begin < total; begin += chunk) {
    const std::int64_t tokens = std::min(chunk, total - begin);
    const bool wanted = all || begin + tokens == total;
    device->prefill(ids.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(tokens)),
                    *cache.on_device, cache.size(), all,
                    wanted ? logits.as<float>() + (all ? begin * vocab : 0) : nullptr);
    cache.append(tokens);
  }
  return logits;
}

void Model::Impl::decode_on_device(std::span<const TokenId> ids, std::span<KvCache* const> caches,
                                   float* logits, TokenId* best) const {
  std::vector<DeviceDecoder::Step> steps;
  for (std::size_t i = 0; i < ids.size(); ++i)
    steps.push_back({ids[i], caches[i]->size(), caches[i]->on_device.get()});
  device->decode(steps, logits, best);
  for (KvCache* cache : caches) cache->append(1);
}

Buffer Model::Impl::decode_on_cpu(std::span<const TokenId> ids, std::span<KvCache* const> caches) {
  const auto rows = static_cast<std::int64_t>(ids.size());
  std::int64_t positions = 0;
  for (const KvCache* cache : caches) positions = std::max(positions, cache->size() + 1);
  reserve_positions(positions);
  workspace.reserve(rows);
  const MatrixRef hidden = workspace.hidden(rows);
  embedding(*embeddings, ids, hidden, pool);
  const std::vector<std::int64_t> one_each(ids.size(), 1);
  run_layers(hidden, caches, one_each);
  for (KvCache* cache : caches) cache->append(1);
  Buffer logits(static_cast<std::size_t>(rows * config.vocab_size) * sizeof(float));
  run_head(hidden, matrix_ref(logits.as<float>(), rows, config.vocab_size));
  return logits;
}

Buffer Model::decode(std::span<const TokenId> ids, std::span<KvCache* const> caches) {
  check_batch(*impl_, ids, caches);
  if (impl_->device == nullptr) return impl_->decode_on_cpu(ids, caches);
  Buffer logits(ids.size() * static_cast<std::size_t>(impl_->config.vocab_size) * sizeof(float));
  impl_->decode_on_device(ids, caches, logits.as<float>(), nullptr);
  return logits;
}

std::vector<TokenId> Model::decode_greedy(std::span<const TokenId> ids,
                                          std::span<KvCache* const> caches) {
  check_batch(*impl_, ids, caches);
  std::vector<TokenId> best(ids.size());
  if (impl_->device != nullptr) {
    impl_->decode_on_device(ids, caches, nullptr, best.data());
  } else {
    const Buffer logits = impl_->decode_on_cpu(ids, caches);
    const auto vocab = static_cast<std::size_t>(impl_->config.vocab_size);
    for (std::size_t i = 0; i < best.size(); ++i)
      best[i] = likeliest(logits.span<float>().subspan(i * vocab, vocab));
  }
  for (const TokenId id : best)
    require(id >= 0, "model: decode: expected finite logits, found others");
  return best;
}

}  // namespace rarefy
