#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| adit_agent::fuzz_request(data));
