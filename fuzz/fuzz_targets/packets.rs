#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| adit_netstack::fuzz_packets(data, std::time::Instant::now()));
