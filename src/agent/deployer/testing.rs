//! A server that answers what a test says.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;

use super::Deployer;
use crate::agent::http::{Client, Trust, Url};

/// Answers connection after connection with these bytes; gives the requests' heads back.
pub fn serve(answers: Vec<Vec<u8>>) -> (Deployer, std::thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    let server = std::thread::spawn(move || {
        let mut heads = Vec::new();
        for answer in answers {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream);
            let (mut head, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if line == "\r\n" {
                    break;
                }
                head.push_str(&line);
            }
            reader.read_exact(&mut vec![0; length]).unwrap();
            reader.into_inner().write_all(&answer).unwrap();
            heads.push(head);
        }
        heads
    });
    (Deployer { client: Client::new(Trust::of_system(), |_| {}), url, say: |_| {} }, server)
}

pub fn answer(status: &str, body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
}
