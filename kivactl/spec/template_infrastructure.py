"""The part of the commented spec on machines; `spec.template` puts it into its place."""

from __future__ import annotations

INFRASTRUCTURE = """\
# The machines that `kivactl provision` makes ready; this one alone when absent.
#infrastructure:
  # static (machines that exist), or the cloud that makes them: openstack, stackit, aws, azure.
  #provider: static
  # Where in the cloud; StackIT's project or Azure's subscription; the machine image (Debian 12), the provider's own when
  # absent and known; and OpenStack's network with public addresses.
  #region: eu01
  #zones: []
  #project: kiva
  #image: debian-12
  #external_network: floating
  # Machines that are alike. Roles: host (a whole platform on one machine, without Kubernetes), or with Kubernetes server
  # (the control plane: 1, 3, 5 or 7 machines), engine, gateway and storage.
  #groups:
    #- name: control
      #role: server
      # The machines, with provider static; the host key (ssh-keyscan shows it) is kept from the first contact when absent.
      #hosts: [{{name: control-1, address: 10.20.48.11}}]
    #- name: gpu
      #role: engine
      #hosts:
        #- name: gpu-1
          #address: 10.20.16.11
          #host_key: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJw6rB7cXKzcHbzP5GjJxGpX1Xt1WbZzL1mKzQx9vJ0a
      # How many to make, and of which size, with a cloud; the size is derived from the GPUs when absent and known.
      #count: 1
      #flavour: g6e.4xlarge
      #gpu: {{type: L40S, count: 1}}
      # Spread over these zones in turn; those of the infrastructure when empty.
      #zones: []
      # Root disk of each, and a further one for models, which outlives the machine.
      #disk: 100GiB
      #data_disk: 500GiB
      # Labels and taints of the nodes in Kubernetes.
      #labels: {{kiva/pool: gpu}}
      #taints: ["nvidia.com/gpu=present:NoSchedule"]
  # Who reaches what. The segments lie in the range; between them only what a platform needs is let through. Clients reach
  # the gateway alone, operators SSH and Kubernetes' API; nobody does when empty.
  #network:
    #range: 10.20.0.0/16
    #segments: {{gateway: 10.20.0.0/20, engines: 10.20.16.0/20, storage: 10.20.32.0/20, management: 10.20.48.0/20}}
    #clients: []
    #operators: []
    # A site-to-site VPN, through which clients and operators come; the file holds the pre-shared key (mode 0600).
    #vpn: {{peer: 192.0.2.10, networks: [10.100.0.0/16], key_file: ./vpn.key}}
    # Name and time servers; those the machines have when empty.
    #dns: []
    #ntp: []
  # SSH with a key (its public half beside it as .pub), then sudo without a password; and a machine to go through.
  #access:
    #user: kiva
    #key: ~/.ssh/id_ed25519
    #port: 22
    #jump: kiva@bastion.example.org
  # Files that machines share: none, nfs (a server that exists) or longhorn; and where models lie on each machine.
  #storage: {{kind: none, server: nfs.example.org, export: /kiva, path: /srv/kiva}}
  # The Kubernetes to put on them: k3s or rke2, its release, cilium or calico; the name under which all servers are reached,
  # the first server's address when absent; and the addresses of pods and services.
  #kubernetes: {{distribution: k3s, version: v1.35.1+k3s1, cni: cilium, endpoint: api.example.org, pods: 10.42.0.0/16, services: 10.43.0.0/16}}
  # Machines with GPUs: branch of NVIDIA's driver; slices every GPU is cut into (MIG, such as all-3g.40gb), or how many pods
  # share one in turns.
  #gpu: {{driver: "580", mig: all-3g.40gb, time_slicing: 1}}
  # The way to the internet, and what is reached without it besides the platform's own.
  #proxy: {{http: "http://proxy.example.org:3128", https: "http://proxy.example.org:3128", exempt: []}}
  # Without the internet: where things come from instead. Each is used alone when named.
  #mirrors:
    #apt: https://mirror.example.org/debian
    #nvidia: https://mirror.example.org/nvidia
    #python: https://mirror.example.org/simple
    #images: registry.example.org/mirror
    #files: https://mirror.example.org/files
    #terraform: /srv/terraform-providers
    # A Python environment with kivactl, gateway and engine that the machine image of hosts brings; none is made then.
    #environment: /opt/kiva-image
  # A syslog server that gets the machines' journals, by TLS with certificates of the platform's authority on both sides; the name in
  # its certificate, when that is another one.
  #logs: {{server: logs.example.org, name: logs.example.org, port: 6514}}
  # Where Terraform keeps what it made: local (in storage.state), s3 or http (such as GitLab's).
  #terraform: {{kind: local, bucket: kiva-state, key: kiva.tfstate, region: eu01, endpoint: "https://s3.example.org", address: "https://gitlab.example.org/state"}}
  # Groups whose machines are never taken away, neither by a change nor by --destroy.
  #protect: []

"""
