"""The users of the load tests keep on asking, whenever they lose their patience."""

import http.server
import ssl
import threading
import time

import pytest
from streams import Users


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers whatever is asked."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    context: ssl.SSLContext

    def finish_request(self, request, client_address):
        """In the connection's own thread, so that nobody waits for the handshake of one that left."""
        with self.context.wrap_socket(request, server_side=True) as secured:
            super().finish_request(secured, client_address)

    def handle_error(self, *_):
        """Clients that leave are what this is about."""


@pytest.fixture
def server(certificate):
    with Server(("127.0.0.1", 0), Handler) as server:
        server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.context.load_cert_chain(*certificate)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_user_who_left_between_connecting_and_asking_gets_answers_later(server, certificate, monkeypatch):
    busy = threading.Event()
    busy.set()

    class Late(ssl.SSLObject):
        """On a busy machine the user's patience is over in the moment in which the connection is there."""

        def do_handshake(self):
            super().do_handshake()
            if busy.is_set():
                time.sleep(0.5)

    monkeypatch.setattr(ssl.SSLContext, "sslobject_class", Late)
    with Users(server.server_address[1], certificate[0], "token", count=2, streamed=0.0, leaving=1.0) as users:
        users.until(4)
        assert all(fate.left for fate in users.fates)
        busy.clear()
        users.leaving = 0.0
        users.until(4)  # two may still be leaving
        assert users.fates[-1].finished
