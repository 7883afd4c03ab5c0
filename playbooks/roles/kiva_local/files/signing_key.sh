# The private key that signs tokens.
new_key "$KIVA_SIGNING_KEY"
install_new "$KIVA_SIGNING_KEY"
