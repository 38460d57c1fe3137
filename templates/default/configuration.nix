{ ... }:
{
  networking.hostName = "machine";
  services.nginx.enable = true;
  services.nginx.virtualHosts.localhost.locations."/".return = ''200 "it works\n"'';

  # On the console, once nginx's start is over: the lane waits for it.
  bootproof.markers."services.ready".after = [ "nginx.service" ];

  system.stateVersion = "26.05";
}
