// The launches of LaunchAppend() that seal.
#pragma once

struct CUstream_st;

namespace quash::cuda {

struct AppendArgs;

// Seals what appending will fill; changes neither counts nor open tokens.
void LaunchSeal(const AppendArgs& args, CUstream_st* stream);

// All of appending, for at most kPageTokens tokens.
void LaunchSealAndMove(const AppendArgs& args, CUstream_st* stream);

}  // namespace quash::cuda
