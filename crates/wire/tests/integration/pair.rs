//! Both machines joined in memory, the bytes between them cut in every way.

use adit_wire::rpc::{
    CallToken, ClientCall, ClientEvent, RegistrationClient, RegistrationServer, RpcError, ServerEvent,
    fuzz_registration_client, fuzz_registration_server,
};
use proptest::prelude::*;

use crate::{assert_same, details, refusal, request};

/// A connector's and an edge's end, and how many bytes of a stream arrive at once.
struct Pair {
    client: RegistrationClient,
    server: RegistrationServer,
    piece: usize,
}

impl Pair {
    fn new(piece: usize) -> Self {
        Self { client: RegistrationClient::new(), server: RegistrationServer::new(), piece }
    }

    /// Carries bytes until neither end has any to send.
    fn settle(&mut self) {
        loop {
            let up: Vec<u8> = std::iter::from_fn(|| self.client.poll_transmit()).flatten().collect();
            let down: Vec<u8> = std::iter::from_fn(|| self.server.poll_transmit()).flatten().collect();
            if up.is_empty() && down.is_empty() {
                return;
            }
            up.chunks(self.piece).for_each(|piece| self.server.handle_input(piece).unwrap());
            down.chunks(self.piece).for_each(|piece| self.client.handle_input(piece).unwrap());
        }
    }

    fn token(&mut self) -> CallToken {
        self.settle();
        match self.server.poll_event() {
            Some(ServerEvent::Register { token, request: actual }) => {
                assert_same(&actual, &request());
                token
            }
            Some(ServerEvent::Unregister { token }) => token,
            Some(ServerEvent::LocalConfiguration { token, config }) => {
                assert_eq!(&config[..], b"{}");
                token
            }
            other => panic!("a call was expected: {other:?}"),
        }
    }

    fn event(&mut self) -> ClientEvent {
        self.settle();
        self.client.poll_event().expect("an event was expected")
    }
}

#[test]
fn a_connection_lives_whatever_the_pieces_in_which_bytes_arrive() {
    for piece in (1..=64).chain([1000, usize::MAX]) {
        let mut pair = Pair::new(piece);
        pair.client.register(&request()).unwrap();
        let token = pair.token();
        pair.server.answer_register(token, Ok(details()));
        assert_eq!(pair.event(), ClientEvent::Registered(details()));
        pair.client.update_local_configuration(b"{}").unwrap();
        let token = pair.token();
        pair.server.answer_local_configuration(token);
        assert_eq!(pair.event(), ClientEvent::LocalConfigurationReceived);
        pair.client.unregister();
        let token = pair.token();
        pair.server.answer_unregister(token);
        assert_eq!(pair.event(), ClientEvent::Unregistered);
        pair.client.shutdown();
        pair.settle();
        let ended = pair.server.poll_event();
        assert!(matches!(ended, Some(ServerEvent::Aborted { reason }) if reason == "rpc: shutdown"));
        assert!(pair.server.is_closed() && pair.client.is_closed());
    }
}

#[test]
fn a_refusal_arrives_with_all_that_it_says() {
    let mut pair = Pair::new(7);
    pair.client.register(&request()).unwrap();
    let token = pair.token();
    pair.server.answer_register(token, Err(refusal()));
    assert_eq!(pair.event(), ClientEvent::Refused(refusal()));
}

#[test]
fn a_call_is_answered_once() {
    let mut pair = Pair::new(usize::MAX);
    pair.client.register(&request()).unwrap();
    let token = pair.token();
    pair.server.answer_register(token, Ok(details()));
    pair.server.answer_register(token, Err(refusal()));
    assert_eq!(pair.event(), ClientEvent::Registered(details()));
    assert_eq!(pair.client.poll_event(), None);
}

#[test]
fn a_call_after_the_end_fails_at_once() {
    let mut pair = Pair::new(usize::MAX);
    pair.client.shutdown();
    pair.client.unregister();
    assert!(matches!(pair.event(), ClientEvent::CallFailed { call: ClientCall::Unregister, .. }));
}

#[test]
fn a_large_message_is_taken_only_from_a_registered_connector() {
    let config = vec![b' '; 100 << 10];
    let mut pair = Pair::new(usize::MAX);
    pair.client.update_local_configuration(&config).unwrap();
    let up: Vec<u8> = std::iter::from_fn(|| pair.client.poll_transmit()).flatten().collect();
    assert!(matches!(pair.server.handle_input(&up), Err(RpcError::Message(_))));
    let abort = std::iter::from_fn(|| pair.server.poll_transmit()).last().unwrap();
    pair.client.handle_input(&abort).unwrap();
    assert!(matches!(pair.event(), ClientEvent::Aborted { .. }));

    let mut pair = Pair::new(usize::MAX);
    pair.client.register(&request()).unwrap();
    let token = pair.token();
    pair.server.answer_register(token, Ok(details()));
    pair.client.update_local_configuration(&config).unwrap();
    pair.settle();
    assert!(
        matches!(pair.server.poll_event(), Some(ServerEvent::LocalConfiguration { config: c, .. }) if c == config)
    );
}

/// A message of one segment, given as words.
fn words(words: &[[u8; 8]]) -> Vec<u8> {
    let size = u32::try_from(words.len()).unwrap().to_le_bytes();
    [&[0; 4], &size[..], &words.concat()].concat()
}

fn bootstrap(question: u8) -> Vec<u8> {
    words(&[
        [0, 0, 0, 0, 1, 0, 1, 0],
        [8, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 0, 1, 0],
        [question, 0, 0, 0, 0, 0, 0, 0],
        [0; 8],
    ])
}

#[test]
fn the_answer_to_a_bootstrap_is_these_bytes() {
    let mut server = RegistrationServer::new();
    server.handle_input(&bootstrap(5)).unwrap();
    let expected = words(&[
        [0, 0, 0, 0, 1, 0, 1, 0],
        [3, 0, 0, 0, 0, 0, 0, 0],    // return
        [0, 0, 0, 0, 2, 0, 1, 0],    //
        [5, 0, 0, 0, 0, 0, 0, 0],    // to question 5: results
        [0; 8],                      //
        [0, 0, 0, 0, 0, 0, 2, 0],    // payload
        [3, 0, 0, 0, 0, 0, 0, 0],    // content: capability 0
        [1, 0, 0, 0, 0x17, 0, 0, 0], // its table
        [4, 0, 0, 0, 1, 0, 1, 0],    // one descriptor
        [1, 0, 0, 0, 0, 0, 0, 0],    // hosted by the sender, export 0
        [0; 8],
    ]);
    assert_eq!(server.poll_transmit().unwrap(), expected);
}

#[test]
fn a_question_in_use_is_not_opened_again() {
    let mut server = RegistrationServer::new();
    server.handle_input(&bootstrap(5)).unwrap();
    assert_eq!(server.handle_input(&bootstrap(5)), Err(RpcError::QuestionReused(5)));
    assert!(server.is_closed());
}

#[test]
fn open_questions_are_bounded() {
    let mut server = RegistrationServer::new();
    let error = (0..=255).find_map(|question| server.handle_input(&bootstrap(question)).err());
    assert_eq!(error, Some(RpcError::TooManyQuestions));
}

#[test]
fn an_end_that_asks_and_never_reads_is_cut_off() {
    let finish = |question: u8| {
        words(&[
            [0, 0, 0, 0, 1, 0, 1, 0],
            [4, 0, 0, 0, 0, 0, 0, 0],
            [0, 0, 0, 0, 1, 0, 0, 0],
            [question, 0, 0, 0, 0, 0, 0, 0],
        ])
    };
    let mut server = RegistrationServer::new();
    let turn = [bootstrap(1), finish(1)].concat();
    let error = (0..10_000).find_map(|_| server.handle_input(&turn).err());
    assert_eq!(error, Some(RpcError::TooManyTransmits));
}

#[test]
fn an_unknown_message_comes_back_whole() {
    // A `resolve` of promise 9.
    let resolve = words(&[
        [0, 0, 0, 0, 1, 0, 1, 0],
        [5, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 0, 1, 0],
        [9, 0, 0, 0, 0, 0, 0, 0],
        [0; 8],
    ]);
    let mut server = RegistrationServer::new();
    server.handle_input(&resolve).unwrap();
    let expected = words(&[
        [0, 0, 0, 0, 1, 0, 1, 0],
        [0, 0, 0, 0, 0, 0, 0, 0], // unimplemented:
        [4, 0, 0, 0, 1, 0, 1, 0], // the root of what follows, one word on
        [0, 0, 0, 0, 1, 0, 1, 0],
        [5, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 0, 1, 0],
        [9, 0, 0, 0, 0, 0, 0, 0],
        [0; 8],
    ]);
    assert_eq!(server.poll_transmit().unwrap(), expected);
}

#[test]
fn a_secret_does_not_show() {
    assert!(format!("{:?}", request()).contains("TunnelSecret(..)"));
}

/// What a whole conversation looks like on the wire, each way.
fn conversation() -> (Vec<u8>, Vec<u8>) {
    let mut pair = Pair::new(usize::MAX);
    let (mut up, mut down) = (Vec::new(), Vec::new());
    pair.client.register(&request()).unwrap();
    pair.client.unregister();
    let mut answered = 0;
    while answered < 2 {
        for bytes in std::iter::from_fn(|| pair.client.poll_transmit()) {
            up.extend_from_slice(&bytes);
            pair.server.handle_input(&bytes).unwrap();
        }
        while let Some(event) = pair.server.poll_event() {
            answered += 1;
            match event {
                ServerEvent::Register { token, .. } => pair.server.answer_register(token, Ok(details())),
                ServerEvent::Unregister { token } => pair.server.answer_unregister(token),
                other @ (ServerEvent::LocalConfiguration { .. } | ServerEvent::Aborted { .. }) => {
                    panic!("{other:?}")
                }
            }
        }
        for bytes in std::iter::from_fn(|| pair.server.poll_transmit()) {
            down.extend_from_slice(&bytes);
            pair.client.handle_input(&bytes).unwrap();
        }
    }
    (up, down)
}

#[test]
fn a_flipped_bit_breaks_nothing_but_the_conversation() {
    let (up, down) = conversation();
    for (original, fuzz) in
        [(up, fuzz_registration_server as fn(&[u8])), (down, fuzz_registration_client as fn(&[u8]))]
    {
        for bit in 0..original.len() * 8 {
            let mut input = original.clone();
            input[bit / 8] ^= 1 << (bit % 8);
            fuzz(&input);
        }
    }
}

proptest! {
    #[test]
    fn any_message_is_answered_or_ends_the_conversation(
        content in prop::collection::vec(prop_oneof![any::<[u8; 8]>(), prop::array::uniform8(0u8..4)], 0..30),
    ) {
        let input = [bootstrap(0), words(&content)].concat();
        fuzz_registration_server(&input);
        fuzz_registration_client(&input);
    }
}
