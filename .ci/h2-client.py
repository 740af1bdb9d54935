"""A strict client of HTTP/2 (hyper-h2) against a server: `h2-client.py PORT CA`.

The library raises an error for every frame that RFC 9113 does not allow in the state of its connection or stream. Each
check has a connection of its own, by TLS with ALPN. The server serves a folder with `index.html` and `big.bin`.
"""

import socket
import ssl
import sys

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings

PORT, AUTHORITY = int(sys.argv[1]), sys.argv[2]
INDEX, BIG = open(sys.argv[3] + "/index.html", "rb").read(), open(sys.argv[3] + "/big.bin", "rb").read()


class Client:
    """A connection whose frames are all checked."""

    def __init__(self, **settings):
        context = ssl.create_default_context(cafile=AUTHORITY)
        context.set_alpn_protocols(["h2"])
        plain = socket.create_connection(("127.0.0.1", PORT), timeout=20)
        self.socket = context.wrap_socket(plain, server_hostname="localhost")
        assert self.socket.selected_alpn_protocol() == "h2"
        config = h2.config.H2Configuration(client_side=True, validate_inbound_headers=True)
        self.h2 = h2.connection.H2Connection(config)
        if settings:
            initial = {h2.settings.SettingCodes[name]: value for name, value in settings.items()}
            self.h2.local_settings = h2.settings.Settings(client=True, initial_values=initial)
        self.h2.initiate_connection()
        self.events, self.streams, self.ended = [], {}, False
        self.flush()

    def flush(self):
        self.socket.sendall(self.h2.data_to_send())

    def get(self, path, method="GET", body=None, extra=()):
        stream = self.h2.get_next_available_stream_id()
        head = [(":method", method), (":scheme", "https"), (":authority", "localhost"), (":path", path), *extra]
        self.h2.send_headers(stream, head, end_stream=body is None)
        if body is not None:
            self.h2.send_data(stream, body, end_stream=True)
        self.streams[stream] = {"head": None, "body": b"", "ended": False, "reset": None}
        self.flush()
        return stream

    def read(self, acknowledge=True):
        """Reads once; `False` at the end."""
        data = self.socket.recv(65536)
        if not data:
            self.ended = True
            return False
        for event in self.h2.receive_data(data):
            self.events.append(event)
            stream = self.streams.get(getattr(event, "stream_id", None))
            match event:
                case h2.events.ResponseReceived():
                    stream["head"] = dict(event.headers)
                case h2.events.DataReceived():
                    stream["body"] += event.data
                    if acknowledge and event.flow_controlled_length:
                        self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                case h2.events.StreamEnded():
                    stream["ended"] = True
                case h2.events.StreamReset() if stream:
                    stream["ended"], stream["reset"] = True, event.error_code
                case h2.events.ConnectionTerminated():
                    self.ended = True
        self.flush()
        return not self.ended

    def until(self, done):
        while not done():
            assert self.read(), f"closed: {self.events}"

    def response(self, stream):
        self.until(lambda: self.streams[stream]["ended"])
        return self.streams[stream]

    def saw(self, kind):
        return [event for event in self.events if isinstance(event, kind)]


def settings_are_bounded():
    client = Client()
    client.until(lambda: client.saw(h2.events.RemoteSettingsChanged) and client.saw(h2.events.SettingsAcknowledged))
    remote = client.h2.remote_settings
    assert remote.max_concurrent_streams <= 1000, remote.max_concurrent_streams
    assert remote.max_header_list_size <= 1 << 20, remote.max_header_list_size


def requests_are_answered():
    client = Client()
    for method in ["GET", "HEAD"]:
        response = client.response(client.get("/", method))
        assert response["head"][b":status"] == b"200", response
        assert response["body"] == (INDEX if method == "GET" else b"")
        assert int(response["head"][b"content-length"]) == len(INDEX)
    assert client.response(client.get("/nothing"))["head"][b":status"] == b"404"
    assert client.response(client.get("/", "POST", b"x" * 5000))["head"][b":status"] == b"405"
    part = client.response(client.get("/big.bin", extra=[("range", "bytes=5-14")]))
    assert (part["head"][b":status"], part["body"]) == (b"206", BIG[5:15])


def streams_share_a_connection():
    client = Client()
    streams = [client.get("/big.bin" if n % 10 == 0 else "/") for n in range(60)]
    for n, stream in enumerate(streams):
        assert client.response(stream)["body"] == (BIG if n % 10 == 0 else INDEX)


def windows_are_obeyed():
    # The library raises an error for a byte beyond a window.
    client = Client(INITIAL_WINDOW_SIZE=100)
    stream = client.get("/big.bin")
    while len(client.streams[stream]["body"]) < 100:
        client.read(acknowledge=False)
    client.h2.ping(b"12345678")
    client.flush()
    client.until(lambda: client.saw(h2.events.PingAckReceived))
    assert len(client.streams[stream]["body"]) == 100
    client.h2.increment_flow_control_window(500_000, stream)
    client.h2.increment_flow_control_window(10_000_000)
    client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1 << 20})
    client.flush()
    client.h2.increment_flow_control_window(5_000_000, stream)
    client.flush()
    while not client.streams[stream]["ended"]:
        client.read(acknowledge=False)
    assert client.streams[stream]["body"] == BIG


def frames_are_not_larger_than_announced():
    client = Client(MAX_FRAME_SIZE=16384)
    client.response(client.get("/big.bin"))
    sizes = [len(event.data) for event in client.saw(h2.events.DataReceived)]
    assert max(sizes) <= 16384, max(sizes)


def cancelled_stream_ends_alone():
    client = Client()
    stream = client.get("/big.bin")
    client.until(lambda: client.streams[stream]["head"])
    client.h2.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
    client.flush()
    assert client.response(client.get("/"))["body"] == INDEX


def large_head_is_refused_and_the_connection_stays_or_says_why():
    client = Client()
    stream = client.get("/", extra=[(f"x-{n}", "v" * 1000) for n in range(60)])
    while not client.streams[stream]["ended"] and client.read():
        pass
    response, terminated = client.streams[stream], client.saw(h2.events.ConnectionTerminated)
    refused = response["head"] and response["head"][b":status"] == b"431"
    assert refused or response["reset"] is not None or terminated, response


def faults_of_the_client_end_the_connection():
    # The `h2` crate sends the general code for some frames of a wrong size, which RFC 9113 section 5.4.1 permits.
    for frame, code in [
        (b"\0\0\x04\x08\0\0\0\0\0" + b"\0\0\0\0", h2.errors.ErrorCodes.PROTOCOL_ERROR),  # WINDOW_UPDATE of 0
        (b"\0\0\x07\x06\0\0\0\0\0" + b"1234567", h2.errors.ErrorCodes.FRAME_SIZE_ERROR),  # PING of 7 bytes
        (b"\0\0\x01\0\0\0\0\0\0x", h2.errors.ErrorCodes.PROTOCOL_ERROR),  # DATA on stream 0
        (b"\xff\xff\xff\0\0\0\0\0\x01", h2.errors.ErrorCodes.FRAME_SIZE_ERROR),  # larger than announced
    ]:
        client = Client()
        client.until(lambda: client.saw(h2.events.SettingsAcknowledged))
        client.socket.sendall(frame)
        while client.read():
            pass
        codes = [event.error_code for event in client.saw(h2.events.ConnectionTerminated)]
        assert codes and codes[-1] in (code, h2.errors.ErrorCodes.PROTOCOL_ERROR), (frame, codes)


for check in [
    settings_are_bounded,
    requests_are_answered,
    streams_share_a_connection,
    windows_are_obeyed,
    frames_are_not_larger_than_announced,
    cancelled_stream_ends_alone,
    large_head_is_refused_and_the_connection_stays_or_says_why,
    faults_of_the_client_end_the_connection,
]:
    check()
    print(f"{check.__name__.replace('_', ' ')}: ok")
