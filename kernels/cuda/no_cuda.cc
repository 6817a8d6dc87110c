// What device.h, scan.h, attend.h and seal.h give a build without CUDA: no devices.
#include "kernels/cuda/attend.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/scan.h"
#include "kernels/cuda/scan_join.h"
#include "kernels/cuda/scan_rank.h"
#include "kernels/cuda/seal.h"

namespace quash::cuda {

constexpr const char* kNoCuda = "this build has no CUDA";

bool HasCuda() { return false; }
int DeviceCount() { return 0; }
const char* UseDevice(int) { return kNoCuda; }
bool SharePeers(std::span<const int>) { return false; }
DeviceScope::DeviceScope() = default;
DeviceScope::~DeviceScope() = default;
const char* DeviceMemory(size_t*, size_t*) { return kNoCuda; }
const char* DeviceName(int, char*, size_t) { return kNoCuda; }

Buffer::~Buffer() = default;
const char* Buffer::Reserve(size_t, Place) { return kNoCuda; }

Event::~Event() = default;
const char* Event::Open() { return kNoCuda; }

Stream::~Stream() = default;
const char* Stream::Open() { return kNoCuda; }
const char* Stream::Upload(const void*, size_t, void*) { return kNoCuda; }
const char* Stream::Download(const void*, size_t, void*) { return kNoCuda; }
const char* Stream::Zero(void*, size_t) { return kNoCuda; }
const char* Stream::Record(const Event&) { return kNoCuda; }
const char* Stream::WaitFor(const Event&) { return kNoCuda; }
const char* Stream::Wait() { return kNoCuda; }

const char* LaunchRepackPlane(const uint8_t*, PlaneStrides, uint32_t, uint32_t, uint32_t*,
                              CUstream_st*) {
  return kNoCuda;
}
void PackScanWeights(const int8_t*, uint32_t, uint32_t, size_t, uint32_t*) {}
void PackCodeValues(const int16_t*, uint32_t, uint32_t, size_t, uint32_t*) {}
bool MakeCodeWeights(const int8_t*, uint32_t, int32_t*) { return false; }
int32_t CodeOffset(const int16_t*, size_t, int32_t) { return 0; }
const char* LaunchNarrow(const ScanArgs&, CUstream_st*) { return kNoCuda; }
const char* LaunchScan(const ScanArgs&, CUstream_st*) { return kNoCuda; }
const char* LaunchNarrowByAll(const ScanArgs&, const ScanArgs&, CUstream_st*) { return kNoCuda; }
const char* LaunchRank(const RankArgs&, CUstream_st*) { return kNoCuda; }
const char* LaunchSample(const ScanArgs&, CUstream_st*) { return kNoCuda; }
const char* LaunchScanBySamples(const ScanArgs&, const SampleSet&, CUstream_st*) {
  return kNoCuda;
}
const char* LaunchJoin(const JoinArgs&, CUstream_st*) { return kNoCuda; }
const char* LaunchFinish(const FinishArgs&, CUstream_st*) { return kNoCuda; }

size_t DecodeWorkspaceBytes(uint32_t, uint32_t, uint32_t, uint32_t) { return 0; }
const char* LaunchDecode(const DecodeArgs&, CUstream_st*) { return kNoCuda; }
const char* LaunchAppend(const SealFormat&, const SequenceState&, const void*, const void*,
                         uint32_t, RowStrides, const int32_t*, CUstream_st*) {
  return kNoCuda;
}
const char* LaunchRead(const SealFormat&, const SequenceState&, uint32_t, uint32_t, RowType, void*,
                       void*, RowStrides, const int32_t*, CUstream_st*) {
  return kNoCuda;
}

}  // namespace quash::cuda
