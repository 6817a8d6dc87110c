// The launches of LaunchAppend() that seal, and those of formats with bands.
#pragma once

#include <cstdint>

struct CUstream_st;

namespace quash::cuda {

struct AppendArgs;
struct ReadArgs;

// Seals what appending will fill; changes neither counts nor open tokens.
void LaunchSeal(const AppendArgs& args, CUstream_st* stream);

// All of appending, for at most kPageTokens tokens.
void LaunchSealAndMove(const AppendArgs& args, CUstream_st* stream);

// Where SealFormat::is_fixed_point.
void LaunchSealFixed(const AppendArgs& args, uint32_t pages, bool moves, CUstream_st* stream);

// Where SealFormat::IsBanded().
//   pages  of a sequence, at most, to be sealed
//   moves  with the rest of appending
void LaunchSealBands(const AppendArgs& args, uint32_t pages, bool moves, CUstream_st* stream);
void LaunchReadBands(const ReadArgs& args, uint32_t n, CUstream_st* stream);

}  // namespace quash::cuda
