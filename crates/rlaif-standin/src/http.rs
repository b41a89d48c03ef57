//! As much of HTTP/1.1 as a client that keeps its connections needs.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) body: Vec<u8>,
}

/// Longest request that is taken, in bytes.
const LONGEST: usize = 64 * 1024 * 1024;

/// Reads one request; `None` where the client has closed, or sends what is none.
pub(crate) async fn read(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Request> {
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut head = httparse::Request::new(&mut headers);
        let parsed = match head.parse(buffer).ok()? {
            httparse::Status::Complete(length) => {
                let body: usize = head
                    .headers
                    .iter()
                    .find(|h| h.name.eq_ignore_ascii_case("content-length"))
                    .and_then(|h| std::str::from_utf8(h.value).ok()?.trim().parse().ok())
                    .unwrap_or(0);
                let method = head.method?.to_owned();
                Some((length, body, method, head.path?.to_owned()))
            }
            httparse::Status::Partial => None,
        };
        if let Some((length, body, method, path)) = parsed {
            if length + body > LONGEST {
                return None;
            }
            while buffer.len() < length + body {
                if socket.read_buf(buffer).await.ok()? == 0 {
                    return None;
                }
            }
            let rest = buffer.split_off(length + body);
            let body = buffer.split_off(length);
            *buffer = rest;
            return Some(Request { method, path, body });
        }
        if socket.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

/// Sends one answer; `headers` are whole lines.
pub(crate) async fn send(
    socket: &mut TcpStream,
    status: u16,
    headers: &str,
    body: &str,
) -> std::io::Result<()> {
    let answer = format!(
        "HTTP/1.1 {status} {}\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\r\n{body}",
        if status == 200 { "OK" } else { "Error" },
        body.len()
    );
    socket.write_all(answer.as_bytes()).await
}

/// Waits until the client closes.
pub(crate) async fn until_closed(socket: &mut TcpStream) {
    let mut byte = [0u8; 64];
    while matches!(socket.read(&mut byte).await, Ok(n) if n > 0) {}
}
