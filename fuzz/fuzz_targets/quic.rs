#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| adit_inspect::fuzz_quic(data));
