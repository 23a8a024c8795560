// How a block's registers are divided where one warpgroup feeds others that multiply.
#pragma once

/// Registers of a thread beside WARPGROUPS that multiply. Together they are what the launch gives
/// the block: who takes more than the others leave waits for ever.
template <int WARPGROUPS>
struct RegisterShares {
  static constexpr int kLaunched = 65536 / ((WARPGROUPS + 1) * 128) / 8 * 8;
  static constexpr int kFeeding = WARPGROUPS < 4 ? 40 : 32;
  static constexpr int kMultiplying =
      (kLaunched * (WARPGROUPS + 1) - kFeeding) / WARPGROUPS / 8 * 8;
};
