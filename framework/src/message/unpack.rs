//! Bodies that come compressed, or in MessagePack: made plain JSON before anything looks at them.

use super::{Message, Unreadable};

impl Message {
    /// Unpacks the body, as far as this build can: it has at most `limit` bytes then. `msgpack` says whether
    /// MessagePack is accepted. What stays packed, [`unsupported`](Self::unsupported) names.
    ///
    /// # Errors
    /// [`Unreadable`] where the body is not what its headers say, or becomes too large.
    pub(crate) fn unpack(&mut self, limit: usize, msgpack: bool) -> Result<(), Unreadable> {
        #[cfg(feature = "compression")]
        if let Some(plain) = compression::decompress(self, limit)? {
            self.body = plain.into();
            self.headers.remove("compression");
        }
        #[cfg(feature = "msgpack")]
        if msgpack && self.content_type.trim() == "application/x-msgpack" {
            use super::usual;

            self.body = msgpack::to_json(&self.body, limit)?.into();
            self.content_type = usual::media_type();
            self.content_encoding = usual::encoding();
        }
        let _ = (limit, msgpack);
        Ok(())
    }
}

#[cfg(feature = "compression")]
mod compression {
    use std::io::Read;

    use super::{Message, Unreadable};

    /// The plain body of a compressed message; `None` where it is not compressed, or in no way we know.
    pub(super) fn decompress(
        message: &Message,
        limit: usize,
    ) -> Result<Option<Vec<u8>>, Unreadable> {
        let packed = &message.body[..];
        match message.text("compression") {
            // What Celery calls gzip is zlib, RFC 1950.
            Some("application/x-gzip" | "gzip" | "zlib") => {
                read(flate2::read::ZlibDecoder::new(packed), "zlib", limit)
            }
            Some("application/zstd" | "zstd" | "zstandard") => {
                let decoder = ruzstd::decoding::StreamingDecoder::new(packed);
                let decoder = decoder.map_err(|error| corrupt("zstd", &error))?;
                read(decoder, "zstd", limit)
            }
            _ => Ok(None),
        }
    }

    fn read(decoder: impl Read, kind: &str, limit: usize) -> Result<Option<Vec<u8>>, Unreadable> {
        let mut plain = Vec::new();
        let bound = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
        decoder
            .take(bound)
            .read_to_end(&mut plain)
            .map_err(|error| corrupt(kind, &error))?;
        match plain.len() > limit {
            true => Err(Unreadable(format!(
                "the body unpacks to more than the {limit} bytes that this worker's app accepts"
            ))),
            false => Ok(Some(plain)),
        }
    }

    fn corrupt(kind: &str, error: &dyn std::fmt::Display) -> Unreadable {
        Unreadable(format!("the body is no {kind}: {error}"))
    }
}

#[cfg(feature = "msgpack")]
mod msgpack {
    use rmpv::Value as Packed;
    use serde_json::{Map, Value};

    use super::Unreadable;
    use crate::celery::Bytes;

    /// Deeper than any sane argument, and no danger to the stack.
    const DEPTH_LIMIT: usize = 64;

    pub(super) fn to_json(mut packed: &[u8], limit: usize) -> Result<Vec<u8>, Unreadable> {
        let value = rmpv::decode::read_value_with_max_depth(&mut packed, DEPTH_LIMIT)
            .map_err(|error| Unreadable(format!("the body is no MessagePack: {error}")))?;
        let json = serde_json::to_vec(&plain(value)?)
            .map_err(|error| Unreadable(format!("the body has no form in JSON: {error}")))?;
        match json.len() > limit {
            true => Err(Unreadable(format!(
                "the body has {} bytes in JSON, more than the {limit} that this worker's app accepts",
                json.len()
            ))),
            false => Ok(json),
        }
    }

    fn plain(value: Packed) -> Result<Value, Unreadable> {
        Ok(match value {
            Packed::Nil => Value::Null,
            Packed::Boolean(value) => value.into(),
            Packed::Integer(value) => match (value.as_u64(), value.as_i64()) {
                (Some(value), _) => value.into(),
                (_, value) => value.into(),
            },
            Packed::F32(value) => value.into(),
            Packed::F64(value) => value.into(),
            Packed::String(text) => match text.into_str() {
                Some(text) => text.into(),
                None => return Err(Unreadable("a string in the body is not UTF-8".into())),
            },
            Packed::Binary(bytes) => serde_json::to_value(Bytes(bytes)).unwrap_or_default(),
            Packed::Array(values) => {
                let values: Result<Vec<_>, _> = values.into_iter().map(plain).collect();
                values?.into()
            }
            Packed::Map(entries) => {
                let mut table = Map::new();
                for (key, value) in entries {
                    // As Python's JSON does with keys that are no strings.
                    let key = match plain(key)? {
                        Value::String(key) => key,
                        key => key.to_string(),
                    };
                    table.insert(key, plain(value)?);
                }
                table.into()
            }
            Packed::Ext(kind, _) => {
                let text = format!("the body has an extension of MessagePack, type {kind}");
                return Err(Unreadable(text));
            }
        })
    }
}

#[cfg(all(test, feature = "compression", feature = "msgpack"))]
mod tests {
    use std::io::Write;

    use super::*;

    fn packed(compression: &str, body: Vec<u8>) -> Message {
        let mut message = Message {
            body: body.into(),
            content_type: "application/json".into(),
            ..Message::default()
        };
        message.set("compression", compression);
        message
    }

    fn zlib(plain: &[u8]) -> Vec<u8> {
        let level = flate2::Compression::default();
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), level);
        encoder.write_all(plain).expect("memory");
        encoder.finish().expect("memory")
    }

    #[test]
    fn compressed_bodies_become_plain() {
        let zstd = ruzstd::encoding::compress_to_vec(
            &b"[[2, 3], {}, {}]"[..],
            ruzstd::encoding::CompressionLevel::Fastest,
        );
        for (kind, body) in [
            ("application/x-gzip", zlib(b"[[2, 3], {}, {}]")),
            ("application/zstd", zstd),
        ] {
            let mut message = packed(kind, body);
            message.unpack(100, false).expect("it unpacks");
            assert_eq!(**message.body, *b"[[2, 3], {}, {}]");
            assert_eq!(message.unsupported(), None);
        }
    }

    #[test]
    fn bombs_and_garbage_are_refused() {
        let mut bomb = packed("zlib", zlib(&vec![b' '; 10_000_000]));
        let error = bomb.unpack(1_000, false).expect_err("too large");
        assert!(error.0.contains("more than the 1000 bytes"), "{error}");
        for kind in ["gzip", "zstd"] {
            let mut garbage = packed(kind, b"garbage".to_vec());
            let error = garbage.unpack(1_000, false).expect_err("garbage");
            assert!(error.0.contains("the body is no "), "{error}");
        }
        let mut unknown = packed("application/x-bz2", b"BZh".to_vec());
        unknown.unpack(1_000, false).expect("left as it is");
        assert!(unknown.unsupported().expect("why").contains("x-bz2"));
    }

    #[test]
    fn message_pack_becomes_json_if_accepted() {
        let mut body = Vec::new();
        let value = rmpv::Value::Array(vec![
            rmpv::Value::Array(vec![
                (-2).into(),
                3.5.into(),
                rmpv::Value::Binary(vec![0xff, 0]),
            ]),
            rmpv::Value::Map(vec![
                ("k".into(), rmpv::Value::Nil),
                (1.into(), true.into()),
            ]),
        ]);
        rmpv::encode::write_value(&mut body, &value).expect("memory");
        let mut message = Message {
            body: body.into(),
            content_type: "application/x-msgpack".into(),
            content_encoding: "binary".into(),
            ..Message::default()
        };
        message.unpack(1_000, false).expect("left as it is");
        assert!(message.unsupported().is_some());
        message.unpack(1_000, true).expect("it unpacks");
        assert_eq!(message.unsupported(), None);
        let json = r#"[[-2,3.5,{"__type__":"base64","__value__":"/wA="}],{"1":true,"k":null}]"#;
        assert_eq!(String::from_utf8_lossy(&message.body), json);
    }

    #[test]
    fn hostile_message_pack_is_refused() {
        let nested = [vec![0x91; 100_000], vec![0xc0]].concat();
        let huge = vec![0xdd, 0xff, 0xff, 0xff, 0xff];
        let extension = vec![0xd4, 1, 0];
        let not_utf8 = vec![0xa1, 0xff];
        for body in [nested, huge, extension, not_utf8, Vec::new()] {
            let mut message = Message {
                body: body.into(),
                content_type: "application/x-msgpack".into(),
                ..Message::default()
            };
            message.unpack(1_000, true).expect_err("refused");
        }
    }
}
