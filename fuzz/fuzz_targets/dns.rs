#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| adit_wire::dns::fuzz_dns(data));
