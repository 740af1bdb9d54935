use std::{
    future::poll_fn,
    net::{Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex},
};

use hickory_resolver::proto::{
    op::Message,
    rr::{Name, Record},
};
use tokio::{net::UdpSocket, sync::watch};

use super::*;
use crate::upstream::tests::within;

/// A name server of the service `app.test.` on `one.test.` and `two.test.`. Both have an A record, and no AAAA record. It
/// answers questions for the addresses of `two.test.` with the codes for A and AAAA: no error with no record, except if
/// there is no code. `both.test.` has an A and an AAAA record, unless the code for that type is an error. The TTL of records
/// is 1 s unless another one is set.
#[derive(Clone, Default)]
struct NameServer {
    codes: Arc<Mutex<Option<[ResponseCode; 2]>>>,
    /// Questions for A records.
    questions: Arc<watch::Sender<usize>>,
    /// The TTLs of records, in seconds.
    ttls: Vec<(&'static str, RecordType, u32)>,
}

impl NameServer {
    async fn start(&self) -> SocketAddr {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = socket.local_addr().unwrap();
        let server = self.clone();
        tokio::spawn(async move {
            let mut buf = [0; 1024];
            loop {
                let (len, client) = socket.recv_from(&mut buf).await.unwrap();
                let answer = server.answer(&Message::from_vec(&buf[..len]).unwrap());
                socket.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
            }
        });
        addr
    }

    fn answer(&self, question: &Message) -> Message {
        let query = question.queries[0].clone();
        let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
        answer.metadata.recursion_available = true;
        let name = query.name().clone();
        let codes = *self.codes.lock().unwrap();
        if query.query_type() == RecordType::A {
            self.questions.send_modify(|n| *n += 1);
        }
        let is_both = name == host("both.test.");
        let data: Vec<RData> = match (query.query_type(), codes) {
            (RecordType::SRV, _) => ["one.test.", "two.test."].map(service).into(),
            (RecordType::AAAA, None | Some([_, ResponseCode::NoError])) if is_both => {
                vec![RData::AAAA("fd00::1".parse::<Ipv6Addr>().unwrap().into())]
            }
            (RecordType::A, Some([ResponseCode::NoError, _])) if is_both => {
                vec![RData::A(Ipv4Addr::new(10, 0, 0, 2).into())]
            }
            (RecordType::A, Some([code, _])) if is_both || name == host("two.test.") => {
                answer.metadata.response_code = code;
                Vec::new()
            }
            (RecordType::AAAA, Some([_, code])) if is_both || name == host("two.test.") => {
                answer.metadata.response_code = code;
                Vec::new()
            }
            (RecordType::A, _) => vec![RData::A(Ipv4Addr::new(10, 0, 0, 1).into())],
            _ => Vec::new(),
        };
        let kind = query.query_type();
        let mut ttls = self.ttls.iter();
        let ttl = ttls.find(|ttl| host(ttl.0) == name && ttl.1 == kind).map_or(1, |ttl| ttl.2);
        answer.add_query(query);
        let record = |data| Record::from_rdata(name.clone(), ttl, data);
        answer.add_answers(data.into_iter().map(record));
        answer
    }

    fn set(&self, a: ResponseCode, aaaa: ResponseCode) {
        *self.codes.lock().unwrap() = Some([a, aaaa]);
    }

    /// Waits for `n` further questions for A records.
    async fn asked(&self, n: usize) {
        let mut questions = self.questions.subscribe();
        let begun = *questions.borrow();
        questions.wait_for(|now| *now >= begun + n).await.unwrap();
    }
}

fn host(name: &str) -> Name {
    name.parse().unwrap()
}

fn service(name: &str) -> RData {
    let port = if name == "one.test." { 1 } else { 2 };
    RData::SRV(SRV::new(0, 1, port, host(name)))
}

fn set(targets: &[&str]) -> Update {
    Update::Set(targets.iter().map(|target| target.parse().unwrap()).collect())
}

async fn next(source: &mut DnsSource) -> Result<Update, String> {
    let next = within(poll_fn(|cx| Pin::new(&mut *source).poll_next(cx))).await;
    next.expect("it never ends").map_err(|e| e.to_string())
}

#[tokio::test]
async fn dns_source_leaves_out_server_only_if_it_has_addresses_of_no_type() {
    use ResponseCode::{NoError, ServFail};
    let server = NameServer::default();
    let mut source = DnsSource::srv_at(server.start().await, "app.test.").unwrap();
    assert_eq!(next(&mut source).await.unwrap(), set(&["10.0.0.1:1", "10.0.0.1:2"]));
    // It may have addresses of the type whose lookup fails: the set remains.
    for (a, aaaa) in [(ServFail, NoError), (NoError, ServFail)] {
        server.set(a, aaaa);
        let error = next(&mut source).await.unwrap_err();
        assert!(error.starts_with("cannot resolve two.test."), "{error}");
    }
    server.set(NoError, NoError);
    assert_eq!(next(&mut source).await.unwrap(), set(&["10.0.0.1:1"]));
}

#[tokio::test]
async fn dns_source_leaves_out_server_whose_name_does_not_exist() {
    use ResponseCode::{NXDomain, ServFail};
    for (a, aaaa) in [(NXDomain, NXDomain), (NXDomain, ServFail), (ServFail, NXDomain)] {
        let server = NameServer::default();
        server.set(a, aaaa);
        let mut source = DnsSource::srv_at(server.start().await, "app.test.").unwrap();
        assert_eq!(next(&mut source).await.unwrap(), set(&["10.0.0.1:1"]));
    }
}

#[tokio::test]
async fn dns_source_keeps_addresses_of_a_type_whose_lookup_fails() {
    use ResponseCode::{NoError, Refused, ServFail};
    let server = NameServer::default();
    let mut source = DnsSource::hosts_at(server.start().await, "both.test.", 80).unwrap();
    assert_eq!(next(&mut source).await.unwrap(), set(&["10.0.0.1:80", "[fd00::1]:80"]));
    // The other type is up to date.
    server.set(NoError, ServFail);
    assert_eq!(next(&mut source).await.unwrap(), set(&["10.0.0.2:80", "[fd00::1]:80"]));
    tokio::select! {
        biased;
        update = next(&mut source) => panic!("{update:?}"),
        () = server.asked(2) => {}
    }
    server.set(NoError, Refused);
    assert_eq!(next(&mut source).await.unwrap(), set(&["10.0.0.2:80"]));
    // Without a last set, one type is better than none.
    server.set(ServFail, NoError);
    let mut source = DnsSource::hosts_at(server.start().await, "both.test.", 80).unwrap();
    assert_eq!(next(&mut source).await.unwrap(), set(&["[fd00::1]:80"]));
}

#[tokio::test]
async fn dns_source_asks_again_after_the_smallest_ttl_of_its_answers() {
    use RecordType::{A, AAAA, SRV};
    let hosts = |a, aaaa| vec![("both.test.", A, a), ("both.test.", AAAA, aaaa)];
    let services =
        |srv, one, two| vec![("app.test.", SRV, srv), ("one.test.", A, one), ("two.test.", A, two)];
    for (ttls, expected) in [
        (hosts(30, 120), 30),
        (hosts(120, 30), 30),
        (services(30, 60, 90), 30),
        (services(90, 30, 60), 30),
        (services(60, 90, 30), 30),
        (hosts(0, 120), 1),
        (hosts(86_400, 100_000), 300),
    ] {
        let name = ttls[0].0.into();
        let is_service = ttls[0].1 == SRV;
        let question =
            if is_service { Question::Srv { name } } else { Question::Hosts { name, port: 80 } };
        let server = NameServer { ttls: ttls.clone(), ..NameServer::default() };
        let lookup = Lookup::new(question, Some(server.start().await)).unwrap();
        let begin = clock::now();
        let (update, lookup) = within(lookup.next()).await;
        let took = clock::now() - begin;
        update.unwrap().unwrap();
        let expected = Duration::from_secs(expected);
        // It is counted from the answer.
        let bounds = expected.saturating_sub(took)..=expected;
        assert!(bounds.contains(&lookup.wait), "{:?} after {ttls:?}", lookup.wait);
    }
}
