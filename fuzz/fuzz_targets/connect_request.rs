#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| adit_wire::tunnel::fuzz_connect_request(data));
