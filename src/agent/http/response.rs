//! What a server answers.

use std::io::{self, BufReader, Read};

/// A head that is longer than this is nobody's.
const HEAD_LIMIT: usize = 64 << 10;

/// Status, headers, and the body as it comes.
pub struct Response {
    pub status: u16,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    body: Body,
}

impl Response {
    /// Reads the head; the body stays in the stream.
    pub(super) fn read(stream: impl Read + Send + 'static) -> io::Result<Self> {
        let mut stream: Box<dyn Read + Send> = Box::new(BufReader::with_capacity(64 << 10, stream));
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() == HEAD_LIMIT {
                return Err(invalid("the answer's head has no end"));
            }
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut parsed = httparse::Response::new(&mut headers);
        parsed.parse(&head).map_err(|error| invalid(&format!("this is no answer of HTTP: {error}")))?;
        let status = parsed.code.ok_or_else(|| invalid("the answer has no status"))?;
        let headers: Vec<(String, String)> = parsed
            .headers
            .iter()
            .map(|header| (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).trim().to_owned()))
            .collect();
        let find = |name: &str| headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let left = if status == 204 || status == 304 {
            Left::Known(0)
        } else if find("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            Left::Chunk(0)
        } else if let Some(length) = find("content-length") {
            Left::Known(length.parse().map_err(|_| invalid("the answer's length is no number"))?)
        } else {
            Left::UntilEnd
        };
        Ok(Self { status, headers, body: Body { stream, left, began: false } })
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn body(&mut self) -> &mut impl Read {
        &mut self.body
    }

    /// All of the body, if it is not longer than that.
    pub fn text(&mut self, limit: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        (&mut self.body).take(limit + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit { Err(invalid("the answer is too long")) } else { Ok(bytes) }
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

struct Body {
    stream: Box<dyn Read + Send>,
    left: Left,
    /// A chunk has been read: its line ending comes before the next.
    began: bool,
}

enum Left {
    Known(u64),
    /// Of the current chunk.
    Chunk(u64),
    UntilEnd,
}

impl Read for Body {
    /// An end before the announced one is an error.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if let Left::Chunk(0) = self.left {
            match self.next_chunk()? {
                0 => self.left = Left::Known(0),
                length => self.left = Left::Chunk(length),
            }
        }
        let left = match &mut self.left {
            Left::UntilEnd => return self.stream.read(buffer),
            Left::Known(0) => return Ok(0),
            Left::Known(left) | Left::Chunk(left) => left,
        };
        let most = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.stream.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        *left -= count as u64;
        Ok(count)
    }
}

impl Body {
    fn next_chunk(&mut self) -> io::Result<u64> {
        if std::mem::replace(&mut self.began, true) {
            self.line()?;
        }
        let line = self.line()?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        u64::from_str_radix(digits, 16).map_err(|_| invalid("a chunk's length is no number"))
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        let mut byte = [0];
        loop {
            self.stream.read_exact(&mut byte)?;
            match byte[0] {
                b'\n' => return Ok(String::from_utf8_lossy(&line).trim_end().to_owned()),
                other if line.len() < 1024 => line.push(other),
                _ => return Err(invalid("a chunk's head has no end")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn read(text: &str) -> io::Result<(u16, String)> {
        let mut response = Response::read(Cursor::new(text.as_bytes().to_vec()))?;
        let body = response.text(100)?;
        Ok((response.status, String::from_utf8(body).unwrap()))
    }

    #[test]
    fn bodies_end_where_they_say() {
        assert_eq!(read("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef").unwrap(), (200, "abc".into()));
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;x=y\r\nd\r\n0\r\n\r\n";
        assert_eq!(read(chunked).unwrap(), (200, "abcd".into()));
        assert_eq!(read("HTTP/1.0 500 No\r\n\r\nabc").unwrap(), (500, "abc".into()));
        assert_eq!(read("HTTP/1.1 204 No Content\r\n\r\n").unwrap(), (204, String::new()));
    }

    #[test]
    fn an_answer_that_is_cut_short_or_too_long_is_an_error() {
        assert!(read("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc").is_err());
        assert!(read("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab").is_err());
        assert!(read(&format!("HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n{}", "x".repeat(101))).is_err());
        assert!(read("HTTP/1.1 200").is_err());
        assert!(read("hello\r\n\r\n").is_err());
    }
}
