//! Calls with bytes that no generated stub would send.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint},
};
use tokio_stream::Stream;
use tonic::{
    Request, Response, Status, Streaming,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
    transport::Channel,
};

/// Sends bytes as they are, and gives them as they come.
#[derive(Clone, Copy, Debug, Default)]
struct AsIs;

impl Codec for AsIs {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for AsIs {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for AsIs {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

async fn client(channel: &Channel) -> Grpc<Channel> {
    let mut client = Grpc::new(channel.clone());
    client.ready().await.expect("the connection is open");
    client
}

/// Makes a call with these bytes as its message.
pub(crate) async fn call(channel: &Channel, method: &str, message: impl Into<Bytes>) -> Result<Bytes, Status> {
    let path: PathAndQuery = method.parse().expect("a path");
    client(channel).await.unary(Request::new(message.into()), path, AsIs).await.map(Response::into_inner)
}

/// Makes a call with a generated message and some bytes behind it.
pub(crate) async fn call_with<T: Message + Default>(
    channel: &Channel,
    method: &str,
    message: &impl Message,
    behind: &[u8],
) -> Result<T, Status> {
    let bytes = [message.encode_to_vec().as_slice(), behind].concat();
    let answer = call(channel, method, bytes).await?;
    Ok(T::decode(answer).expect("an answer of this kind"))
}

/// Opens a worker's stream that sends these bytes as its frames.
pub(crate) async fn stream(
    channel: &Channel,
    frames: impl Stream<Item = Bytes> + Send + 'static,
) -> Result<Streaming<Bytes>, Status> {
    let path = PathAndQuery::from_static("/cabbage.v1.WorkerService/Work");
    client(channel).await.streaming(Request::new(frames), path, AsIs).await.map(Response::into_inner)
}

/// A field of a message: a length and bytes.
pub(crate) fn field(number: u32, content: &[u8]) -> Vec<u8> {
    let mut field = BytesMut::new();
    encode_key(number, WireType::LengthDelimited, &mut field);
    encode_varint(content.len() as u64, &mut field);
    field.extend_from_slice(content);
    field.into()
}

/// Fields of every kind on the wire that no message of cabbage has.
pub(crate) fn fields_of_the_future() -> Vec<u8> {
    let mut fields = BytesMut::from(field(900, b"a message of the future").as_slice());
    encode_key(901, WireType::Varint, &mut fields);
    encode_varint(u64::MAX, &mut fields);
    encode_key(902, WireType::SixtyFourBit, &mut fields);
    fields.extend_from_slice(&[7; 8]);
    encode_key(903, WireType::ThirtyTwoBit, &mut fields);
    fields.extend_from_slice(&[7; 4]);
    fields.into()
}
