#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| adit_wire::peer::fuzz_relayed_flow(data));
